package main

import "syscall"

// freeSpace is the bytes that a user may still write where path is.
func freeSpace(path string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil // #nosec G115 -- a block's size is small and not negative
}
