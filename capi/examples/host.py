#!/usr/bin/env python3
"""A host in Python, with ctypes: it starts a command on vmon's thread, and monitors a child that
subprocess has started and reaps. Ends with 0 if both ended as expected.

    LD_LIBRARY_PATH=/usr/local/lib python3 host.py /var/lib/host
"""

import ctypes
import subprocess
import sys


class Options(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("state_dir", ctypes.c_char_p),
        ("database", ctypes.c_char_p),
        ("on_close", ctypes.c_int),
    ]


class Child(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("pid", ctypes.c_int),
        ("stdin_fd", ctypes.c_int),
        ("stdout_fd", ctypes.c_int),
        ("stderr_fd", ctypes.c_int),
        ("tty_fd", ctypes.c_int),
        ("host_reaps", ctypes.c_int),
    ]


class End(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("exit_code", ctypes.c_int),
        ("signal", ctypes.c_int),
        ("reason", ctypes.c_int),
        ("start_errno", ctypes.c_int),
        ("bytes_logged", ctypes.c_uint64),
        ("bytes_dropped", ctypes.c_uint64),
        ("error", ctypes.c_char_p),
    ]


lib = ctypes.CDLL("libvmon.so.0.1")
pointer, number = ctypes.c_void_p, ctypes.c_int
identifier = ctypes.c_uint64
lib.vmon_errmsg.argtypes, lib.vmon_errmsg.restype = [pointer], ctypes.c_char_p
lib.vmon_strerror.restype = ctypes.c_char_p
for name, arguments in {
    "vmon_open_thread": [ctypes.POINTER(Options), ctypes.POINTER(pointer)],
    "vmon_close": [pointer],
    "vmon_spec_new": [ctypes.c_char_p, ctypes.POINTER(pointer)],
    "vmon_spec_free": [pointer],
    "vmon_spec_command": [pointer, ctypes.POINTER(ctypes.c_char_p)],
    "vmon_start": [pointer, pointer, ctypes.POINTER(identifier)],
    "vmon_adopt": [pointer, pointer, ctypes.POINTER(Child), ctypes.POINTER(identifier)],
    "vmon_reaped": [pointer, identifier, number, number],
    "vmon_wait": [pointer, identifier, number, ctypes.POINTER(End)],
}.items():
    getattr(lib, name).argtypes = arguments


class Error(Exception):
    pass


class Host:
    """A host with a thread. ctypes releases Python's lock during each call."""

    def __init__(self, state):
        self.handle = pointer()
        options = Options(ctypes.sizeof(Options), state.encode(), None, 0)
        self.check(lib.vmon_open_thread(ctypes.byref(options), ctypes.byref(self.handle)))

    def check(self, code):
        if code != 0:
            message = lib.vmon_errmsg(self.handle) if self.handle else lib.vmon_strerror(code)
            raise Error(message.decode())

    def spec(self, name, *command):
        spec = pointer()
        self.check(lib.vmon_spec_new(name.encode(), ctypes.byref(spec)))
        if command:
            words = [word.encode() for word in command]
            array = (ctypes.c_char_p * (len(words) + 1))(*words, None)
            self.check(lib.vmon_spec_command(spec, array))
        return spec

    def start(self, name, *command):
        spec, sandbox = self.spec(name, *command), identifier()
        try:
            self.check(lib.vmon_start(self.handle, spec, ctypes.byref(sandbox)))
        finally:
            lib.vmon_spec_free(spec)
        return sandbox

    def adopt(self, name, process):
        """Monitors a process of subprocess, which goes on reaping it."""
        child = Child(ctypes.sizeof(Child), process.pid, -1, process.stdout.fileno(), -1, -1, 1)
        spec, sandbox = self.spec(name), identifier()
        try:
            self.check(lib.vmon_adopt(self.handle, spec, child, ctypes.byref(sandbox)))
        finally:
            lib.vmon_spec_free(spec)
        process.stdout.close()  # vmon has a duplicate
        return sandbox

    def reaped(self, sandbox, process):
        """Waits for the process, and hands its status in as wait(2) has it."""
        code = process.wait()
        status = -code if code < 0 else code << 8
        self.check(lib.vmon_reaped(self.handle, sandbox, process.pid, status))

    def wait(self, sandbox):
        end = End(ctypes.sizeof(End))
        self.check(lib.vmon_wait(self.handle, sandbox, -1, ctypes.byref(end)))
        return end

    def close(self):
        lib.vmon_close(self.handle)


host = Host(sys.argv[1])
end = host.wait(host.start("started", "sh", "-c", "echo hello; exit 7"))
print("started:", end.exit_code, end.bytes_logged)
assert (end.exit_code, end.bytes_logged) == (7, 6)

process = subprocess.Popen(["sh", "-c", "echo hello; kill -9 $$"], stdout=subprocess.PIPE)
sandbox = host.adopt("adopted", process)
host.reaped(sandbox, process)
end = host.wait(sandbox)
print("adopted:", end.signal, end.bytes_logged)
assert (end.signal, end.bytes_logged) == (9, 6)
host.close()
