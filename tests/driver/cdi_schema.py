"""What a CDI file may hold, as JSON schema, written from the specification (cncf-tags/container-device-interface 0.5.0)."""

NODE = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "pattern": "^/"},
        "hostPath": {"type": "string", "pattern": "^/"},
        "type": {"enum": ["b", "c", "u", "p"]},
        "major": {"type": "integer", "minimum": 0},
        "minor": {"type": "integer", "minimum": 0},
        "fileMode": {"type": "integer"},
        "permissions": {"type": "string", "pattern": "^[rwm]*$"},
        "uid": {"type": "integer"},
        "gid": {"type": "integer"},
    },
    "required": ["path"],
    "additionalProperties": False,
}
MOUNT = {
    "type": "object",
    "properties": {
        "hostPath": {"type": "string", "pattern": "^/"},
        "containerPath": {"type": "string", "pattern": "^/"},
        "options": {"type": "array", "items": {"type": "string"}},
        "type": {"type": "string"},
    },
    "required": ["hostPath", "containerPath"],
    "additionalProperties": False,
}
HOOK = {
    "type": "object",
    "properties": {
        "hookName": {
            "enum": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        },
        "path": {"type": "string", "pattern": "^/"},
        "args": {"type": "array", "items": {"type": "string"}},
        "env": {"type": "array", "items": {"type": "string"}},
        "timeout": {"type": "integer"},
    },
    "required": ["hookName", "path"],
    "additionalProperties": False,
}
EDITS = {
    "type": "object",
    "properties": {
        "env": {"type": "array", "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*=.*$"}, "minItems": 1},
        "deviceNodes": {"type": "array", "items": NODE, "minItems": 1},
        "mounts": {"type": "array", "items": MOUNT, "minItems": 1},
        "hooks": {"type": "array", "items": HOOK, "minItems": 1},
    },
    "additionalProperties": False,
    "minProperties": 1,
}
DEVICE = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$"},
        "containerEdits": EDITS,
    },
    "required": ["name", "containerEdits"],
    "additionalProperties": False,
}
SPEC = {
    "type": "object",
    "properties": {
        "cdiVersion": {"const": "0.5.0"},
        "kind": {
            "type": "string",
            "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]/[A-Za-z][A-Za-z0-9_-]*[A-Za-z0-9]$",
        },
        "devices": {"type": "array", "items": DEVICE, "minItems": 1},
        "containerEdits": EDITS,
    },
    "required": ["cdiVersion", "kind", "devices"],
    "additionalProperties": False,
}
