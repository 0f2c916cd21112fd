module muster.dev/testbed

go 1.26.0
