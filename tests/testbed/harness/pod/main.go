// Command pod is the whole test image: one static program that shows what a container was given, waits, fails on
// request, or passes a token round a ring of its peers.
//
//	pod report             print environment, devices, mounts and device metadata as one line of JSON
//	pod run [SECONDS]      report, then wait (for ever without SECONDS) until SIGTERM
//	pod fail [CODE]        report, then end with CODE (1)
//	pod ring               report, then pass a token in rank order; see ring
//	pod pause              wait until SIGTERM: the sandbox container of every pod
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Report is what a container can see of itself.
type Report struct {
	Hostname string            `json:"hostname"`
	Env      map[string]string `json:"env"`
	Devices  []Device          `json:"devices"`
	Mounts   []Mount           `json:"mounts"`
	Metadata map[string]string `json:"metadata"`
	Probes   []Device          `json:"probes"`
	Args     []string          `json:"args"`
}

// Device is one device node below /dev. Open is what opening it for reading and writing said: "" where it opened,
// ENXIO where the kernel has no driver for it, EPERM where the container may not.
type Device struct {
	Path  string `json:"path"`
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
	Open  string `json:"open"`
}

// Mount is one line of /proc/self/mountinfo.
type Mount struct {
	Source  string `json:"source"`
	Target  string `json:"target"`
	Type    string `json:"type"`
	Options string `json:"options"`
}

func main() {
	command := "run"
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	switch command {
	case "pause":
		wait(0)
	case "report":
		report()
	case "run":
		report()
		wait(time.Duration(number(2, 0)) * time.Second)
	case "fail":
		report()
		os.Exit(number(2, 1))
	case "ring":
		report()
		if err := ring(); err != nil {
			fmt.Fprintln(os.Stderr, "ring:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: pod report | run [SECONDS] | fail [CODE] | ring | pause")
		os.Exit(2)
	}
}

func number(at, otherwise int) int {
	if len(os.Args) <= at {
		return otherwise
	}
	value, err := strconv.Atoi(os.Args[at])
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: not a number\n", os.Args[at])
		os.Exit(2)
	}
	return value
}

// wait returns at SIGTERM or after a time; as the first process of a container it must ask for the signal itself.
func wait(limit time.Duration) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	if limit == 0 {
		<-told
		return
	}
	select {
	case <-told:
	case <-time.After(limit):
	}
}

func report() {
	host, _ := os.Hostname()
	found := Report{
		Hostname: host, Env: environment(), Devices: devices("/dev"), Mounts: mounts(), Metadata: metadata(), Probes: probes(),
		Args: os.Args[1:],
	}
	text, err := json.Marshal(found)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(text))
}

func environment() map[string]string {
	found := map[string]string{}
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		found[name] = value
	}
	return found
}

func devices(root string) []Device {
	found := []Device{}
	filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() || info.Mode()&os.ModeDevice == 0 {
			return nil
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			device := uint64(stat.Rdev)
			major := uint32(device>>8)&0xfff | uint32(device>>32)&^uint32(0xfff)
			minor := uint32(device)&0xff | uint32(device>>12)&^uint32(0xff)
			found = append(found, Device{path, major, minor, opened(path)})
		}
		return nil
	})
	sort.Slice(found, func(i, j int) bool { return found[i].Path < found[j].Path })
	return found
}

// opened returns the name of the error that opening a device gives, "" for none.
func opened(path string) string {
	file, err := syscall.Open(path, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err == nil {
		syscall.Close(file)
		return ""
	}
	for name, code := range map[string]syscall.Errno{
		"EPERM": syscall.EPERM, "EACCES": syscall.EACCES, "ENXIO": syscall.ENXIO, "ENODEV": syscall.ENODEV,
	} {
		if err == code {
			return name
		}
	}
	return err.Error()
}

// probes makes nodes of the devices that PROBE names ("195:3,195:4") and opens them: what is not given must be refused.
func probes() []Device {
	found := []Device{}
	for _, pair := range strings.Split(os.Getenv("PROBE"), ",") {
		left, right, ok := strings.Cut(pair, ":")
		if !ok {
			continue
		}
		major, _ := strconv.Atoi(left)
		minor, _ := strconv.Atoi(right)
		path := filepath.Join(os.TempDir(), fmt.Sprintf("probe-%d-%d", major, minor))
		said := ""
		if err := syscall.Mknod(path, syscall.S_IFCHR|0o666, major<<8|minor&0xff|(minor&^0xff)<<12); err != nil && err != syscall.EEXIST {
			said = "mknod: " + err.Error()
		} else {
			said = opened(path)
		}
		found = append(found, Device{path, uint32(major), uint32(minor), said})
	}
	return found
}

// metadata returns the files that describe the devices of claims, by path.
func metadata() map[string]string {
	found := map[string]string{}
	filepath.Walk("/var/run/kubernetes.io/dra-device-attributes", func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				text = []byte(err.Error())
			}
			found[path] = string(text)
		}
		return nil
	})
	return found
}

func mounts() []Mount {
	found := []Mount{}
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return found
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if ok && len(head) > 5 && len(tail) > 1 {
			found = append(found, Mount{Source: tail[1], Target: head[4], Type: tail[0], Options: head[5]})
		}
	}
	return found
}

// ring listens on RING_PORT + RING_RANK and passes a token to the next rank, RING_LAPS times round RING_SIZE peers.
// The token collects the host names in the order in which it was seen; rank 0 prints it at the end. All peers are on
// RING_HOST (127.0.0.1), since the pods of the testbed share the machine's network.
func ring() error {
	rank, size := setting("RING_RANK", 0), setting("RING_SIZE", 1)
	port, laps := setting("RING_PORT", 29500), setting("RING_LAPS", 2)
	host := os.Getenv("RING_HOST")
	if host == "" {
		host = "127.0.0.1"
	}
	deadline := time.Now().Add(time.Duration(setting("RING_DEADLINE_S", 60)) * time.Second)
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port+rank))
	if err != nil {
		return err
	}
	defer listener.Close()
	listener.(*net.TCPListener).SetDeadline(deadline)
	next := fmt.Sprintf("%s:%d", host, port+(rank+1)%size)
	token := []string{}
	for lap := 0; lap < laps; lap++ {
		if rank > 0 || lap > 0 {
			if token, err = receive(listener, deadline); err != nil {
				return fmt.Errorf("rank %d, lap %d: %w", rank, lap, err)
			}
		}
		if err := send(next, append(token, fmt.Sprintf("%d:%s", rank, name())), deadline); err != nil {
			return fmt.Errorf("rank %d, lap %d: %w", rank, lap, err)
		}
	}
	if rank == 0 {
		if token, err = receive(listener, deadline); err != nil {
			return fmt.Errorf("rank 0, at the end: %w", err)
		}
		text, _ := json.Marshal(map[string]any{"ring": token})
		fmt.Println(string(text))
	}
	return nil
}

func name() string {
	if pod := os.Getenv("POD_NAME"); pod != "" {
		return pod
	}
	host, _ := os.Hostname()
	return host
}

func setting(name string, otherwise int) int {
	value, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		return otherwise
	}
	return value
}

func receive(listener net.Listener, deadline time.Time) ([]string, error) {
	connection, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	connection.SetDeadline(deadline)
	token := []string{}
	return token, json.NewDecoder(connection).Decode(&token)
}

// send tries again until the peer listens: pods of a gang start within seconds of each other, not at once.
func send(peer string, token []string, deadline time.Time) error {
	for {
		connection, err := net.DialTimeout("tcp", peer, time.Until(deadline))
		if err == nil {
			defer connection.Close()
			return json.NewEncoder(connection).Encode(token)
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}
