//go:build !linux

package main

import "errors"

// freeSpace is not known here.
func freeSpace(string) (uint64, error) { return 0, errors.New("free space is known on Linux only") }
