package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// The clocks of clock_gettime(2): a process's CPU time, exact to the nanosecond where /proc counts ticks of
// 10 ms. The id of another process's clock is made of its pid (include/linux/posix-timers_types.h).
const threadCPUClock = 3 // CLOCK_THREAD_CPUTIME_ID

func processCPUClock(pid int) int32 { return int32(^pid<<3 | 2) } // #nosec G115 -- a pid has 22 bits

func readClock(id int32) (time.Duration, bool) {
	var ts syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&ts)), 0) // #nosec G103 -- clock_gettime fills ts
	return time.Duration(ts.Nano()), errno == 0
}

// processes are those whose CPU time is counted: the given ones and all their descendants.
type processes struct{ roots []int }

// usage is CPU time by process.
type usage map[int]time.Duration

func (p processes) usage() (usage, error) {
	pids, err := p.all()
	if err != nil {
		return nil, err
	}
	u := usage{}
	for _, pid := range pids {
		if t, ok := readClock(processCPUClock(pid)); ok { // else it has ended meanwhile
			u[pid] = t
		}
	}
	return u, nil
}

// since is the CPU time used after before was read. A process that has ended meanwhile is not counted; the
// service's own connections live as long as it does.
func (u usage) since(before usage) time.Duration {
	var sum time.Duration
	for pid, t := range u {
		sum += t - before[pid]
	}
	return sum
}

// of is the part of usage that belongs to one process.
func (u usage) of(before usage, pid int) time.Duration { return u[pid] - before[pid] }

func (p processes) all() ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		if parent, err := parentOf(pid); err == nil { // else it has ended
			children[parent] = append(children[parent], pid)
		}
	}
	pids := slices.Clone(p.roots)
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids, nil
}

// parentOf reads proc(5): the fields after the name, which may hold blanks, are state, parent, …
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0, fmt.Errorf("process %d: its stat cannot be read", pid)
	}
	return strconv.Atoi(fields[1])
}

// residentMiB is the resident memory of a process in MiB.
func residentMiB(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d tells no VmRSS", pid)
}

// perCall is the CPU time of one call of f on this thread, the median of some batches, in microseconds.
func perCall(n int, f func() error) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all []float64
	for range 9 {
		start, _ := readClock(threadCPUClock)
		for range n {
			if err := f(); err != nil {
				return 0, err
			}
		}
		end, _ := readClock(threadCPUClock)
		all = append(all, micros(end-start)/float64(n))
	}
	return median(all), nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func median(values []float64) float64 { return quantile(values, 0.5) }

func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
