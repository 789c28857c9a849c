// A host in Go, with cgo: it starts commands on vmon's thread and waits for each in a goroutine.
//
//	go build -o host host.go
//	./host /var/lib/host
//
// Each goroutine that makes a call has a handle of its own, by vmon_clone: a handle is used by one
// thread at a time, and a call that waits takes one thread of the Go runtime.
package main

/*
#cgo pkg-config: vmon
#include <stdlib.h>
#include <vmon.h>

static vmon_options options_of(const char *state_dir)
{
    vmon_options options = VMON_OPTIONS_INIT;
    options.state_dir = state_dir;
    return options;
}

static vmon_end an_end(void)
{
    vmon_end end = VMON_END_INIT;
    return end;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"
)

// Host is a handle of a host.
type Host struct{ handle *C.vmon }

// Open opens a host with a thread of its own.
func Open(state string) (Host, error) {
	var host Host
	path := C.CString(state)
	defer C.free(unsafe.Pointer(path))
	options := C.options_of(path)
	err := host.check(C.vmon_open_thread(&options, &host.handle))
	return host, err
}

// Clone makes a handle for another goroutine.
func (host Host) Clone() (Host, error) {
	var clone Host
	err := host.check(C.vmon_clone(host.handle, &clone.handle))
	return clone, err
}

// Start starts a command and returns its sandbox.
func (host Host) Start(name string, command ...string) (C.vmon_id, error) {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	var spec *C.vmon_spec
	if code := C.vmon_spec_new(cname, &spec); code != C.VMON_OK {
		return 0, errors.New(C.GoString(C.vmon_strerror(code)))
	}
	defer C.vmon_spec_free(spec)
	// An array of C, since Go's memory may not point to C strings that move.
	size := C.size_t(unsafe.Sizeof(uintptr(0)))
	array := (**C.char)(C.calloc(C.size_t(len(command)+1), size))
	defer C.free(unsafe.Pointer(array))
	words := unsafe.Slice(array, len(command)+1)
	for i, word := range command {
		words[i] = C.CString(word)
		defer C.free(unsafe.Pointer(words[i]))
	}
	if code := C.vmon_spec_command(spec, array); code != C.VMON_OK {
		return 0, errors.New(C.GoString(C.vmon_spec_errmsg(spec)))
	}
	var id C.vmon_id
	return id, host.check(C.vmon_start(host.handle, spec, &id))
}

// Wait waits for the end of a sandbox and returns its exit code.
func (host Host) Wait(id C.vmon_id) (int, error) {
	end := C.an_end()
	if err := host.check(C.vmon_wait(host.handle, id, -1, &end)); err != nil {
		return 0, err
	}
	if end.error != nil {
		return int(end.exit_code), errors.New(C.GoString(end.error))
	}
	return int(end.exit_code), nil
}

func (host Host) check(code C.int) error {
	if code == C.VMON_OK {
		return nil
	}
	return errors.New(C.GoString(C.vmon_errmsg(host.handle)))
}

func run(state string) error {
	host, err := Open(state)
	defer C.vmon_close(host.handle)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	failures := make(chan error, 8)
	for code := 0; code < 8; code++ {
		clone, err := host.Clone()
		if err != nil {
			return err
		}
		group.Add(1)
		go func(host Host, want int) {
			defer group.Done()
			defer C.vmon_free(host.handle)
			id, err := host.Start(fmt.Sprintf("go-%d", want), "sh", "-c", fmt.Sprintf("exit %d", want))
			if err == nil {
				var code int
				if code, err = host.Wait(id); err == nil && code != want {
					err = fmt.Errorf("exit code %d instead of %d", code, want)
				}
			}
			failures <- err
		}(clone, code)
	}
	group.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			return err
		}
	}
	fmt.Println("8 commands have ended as they should")
	return nil
}

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
