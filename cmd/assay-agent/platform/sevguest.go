package platform

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The older way to a SEV-SNP report: ioctls of /dev/sev-guest (include/uapi/linux/sev-guest.h).
const (
	snpGetReport    = 0xc0205300 // _IOWR('S', 0, struct snp_guest_request_ioctl)
	snpGetExtReport = 0xc0205302
	snpResponse     = 4000
	snpReportOffset = 32 // of the report in the response, after status and size
	pageSize        = 4096

	// What the host answers, in the upper half of exitinfo2.
	vmmInvalidLength = 1
	vmmBusy          = 2
)

// guestCall is one SNP_GET_REPORT, or SNP_GET_EXT_REPORT where certificates are wanted.
type guestCall struct {
	data         [64]byte
	certificates []byte // the table goes here; nil for SNP_GET_REPORT
	// The answer.
	response           [snpResponse]byte
	certificatesLength uint32
	exit               uint64
}

// ioctl is the seam for tests, where there is no such device.
type ioctl func(device string, call *guestCall) error

// The structures as the kernel has them.
type (
	snpReportRequest struct {
		userData [64]byte
		vmpl     uint32
		_        [28]byte
	}
	snpExtReportRequest struct {
		report              snpReportRequest
		certificatesAddress uint64
		certificatesLength  uint32
		_                   uint32
	}
	snpGuestRequest struct {
		version  uint8
		_        [7]byte
		request  uint64
		response uint64
		exit     uint64
	}
)

// deviceIoctl asks the kernel.
func deviceIoctl(device string, call *guestCall) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0) // #nosec G304 -- a device
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing is written

	// The kernel reads and writes by addresses in structures, so what they point to must stay where it is.
	var pinner runtime.Pinner
	defer pinner.Unpin()
	request := &snpExtReportRequest{report: snpReportRequest{userData: call.data}}
	pinner.Pin(request)
	pinner.Pin(call)
	number := uintptr(snpGetReport)
	if len(call.certificates) > 0 {
		number = snpGetExtReport
		pinner.Pin(&call.certificates[0])
		request.certificatesAddress = uint64(uintptr(unsafe.Pointer(&call.certificates[0]))) // #nosec G103 -- an ioctl takes addresses
		request.certificatesLength = uint32(len(call.certificates))
	}
	message := &snpGuestRequest{
		version:  1,
		request:  uint64(uintptr(unsafe.Pointer(request))),           // #nosec G103 -- the kernel takes addresses (sev-guest.h)
		response: uint64(uintptr(unsafe.Pointer(&call.response[0]))), // #nosec G103 -- likewise
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), number, uintptr(unsafe.Pointer(message))) // #nosec G103 -- likewise
	call.exit, call.certificatesLength = message.exit, request.certificatesLength
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}

// sevGuestReport gets a report over data and the host's certificates, if it has any.
func (c *Collector) sevGuestReport(ctx context.Context, data [64]byte) (report, table []byte, err error) {
	size := 4 * pageSize
	for try := 1; ; try++ {
		call := &guestCall{data: data}
		if size > 0 {
			call.certificates = make([]byte, size)
		}
		err := c.ioctl(c.options.SEVGuest, call)
		vmm := call.exit >> 32
		switch {
		case err == nil:
			report, err := reportOf(&call.response)
			if err != nil || size == 0 {
				return report, nil, err
			}
			return report, call.certificates[:min(int(call.certificatesLength), size)], nil
		case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission), try == tsmTries:
			return nil, nil, err
		case (vmm == vmmInvalidLength || errors.Is(err, unix.ENOSPC)) && int64(call.certificatesLength) > int64(size) && call.certificatesLength <= maxTable:
			size = int(call.certificatesLength)
		case vmm == vmmBusy, errors.Is(err, unix.EBUSY), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			if err := pause(ctx, tsmPause); err != nil {
				return nil, nil, err
			}
		case size > 0:
			size = 0 // a host that knows no certificates may refuse to be asked for them
		default:
			return nil, nil, fmt.Errorf("SNP_GET_REPORT: %w (exitinfo2 0x%x)", err, call.exit)
		}
	}
}

// reportOf takes the report out of MSG_REPORT_RSP (AMD 56860, table 25).
func reportOf(response *[snpResponse]byte) ([]byte, error) {
	status, size := binary.LittleEndian.Uint32(response[:]), binary.LittleEndian.Uint32(response[4:])
	if status != 0 {
		return nil, fmt.Errorf("SNP_GET_REPORT: the firmware answered status 0x%x", status)
	}
	if size > snpResponse-snpReportOffset {
		return nil, fmt.Errorf("SNP_GET_REPORT: a report of %d bytes in an answer of %d", size, snpResponse)
	}
	return append([]byte(nil), response[snpReportOffset:snpReportOffset+size]...), nil
}
