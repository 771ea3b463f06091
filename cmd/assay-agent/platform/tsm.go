package platform

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

// configfs-tsm: a directory made in TSMDir is a request. What is written to its inblob comes back in the report in its
// outblob; generation counts the writes to the entry, so that a report over somebody else's data is noticed.
const (
	maxBlob  = 256 << 10
	tsmTries = 4
)

// tsmPause is how long a busy host is given; a variable, so that tests need not wait.
var tsmPause = time.Second

// tsmEntry makes an entry for the time of use.
func (c *Collector) tsmEntry(use func(entry string) error) (err error) {
	entry := filepath.Join(c.options.TSMDir, "assay-agent-"+rand.Text())
	if err := c.options.Mkdir(entry); err != nil {
		return err
	}
	defer func() {
		if rmErr := c.options.Rmdir(entry); rmErr != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", entry, rmErr))
		}
	}()
	return use(entry)
}

// tsmProvider tells the kind of report that configfs-tsm gives.
func (c *Collector) tsmProvider() (kind string, err error) {
	err = c.tsmEntry(func(entry string) error {
		kind, err = providerOf(entry)
		return err
	})
	return kind, err
}

func providerOf(entry string) (string, error) {
	text, err := readBounded(filepath.Join(entry, "provider"), 4096)
	if err != nil {
		return "", err
	}
	switch name := strings.TrimSpace(string(text)); name {
	case "sev_guest":
		return client.SEVSNP, nil
	case "tdx_guest":
		return client.TDX, nil
	default:
		return "", fmt.Errorf("configfs-tsm gives reports of %q; this agent knows sev_guest and tdx_guest", name)
	}
}

// tsmReport gets a report over data, and what the host gave with it.
func (c *Collector) tsmReport(ctx context.Context, kind string, data [64]byte) (out, aux []byte, err error) {
	err = c.tsmEntry(func(entry string) error {
		for try := 1; ; try++ {
			out, aux, err = readEntry(entry, kind, data)
			busy := errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
			if !busy || try == tsmTries {
				return err
			}
			if err := pause(ctx, tsmPause); err != nil {
				return err
			}
		}
	})
	return out, aux, err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func readEntry(entry, kind string, data [64]byte) (out, aux []byte, err error) {
	before, err := generation(entry)
	if err != nil {
		return nil, nil, err
	}
	if err := writeBlob(filepath.Join(entry, "inblob"), data[:]); err != nil {
		return nil, nil, err
	}
	got, err := providerOf(entry)
	if err != nil {
		return nil, nil, err
	}
	if got != kind {
		return nil, nil, fmt.Errorf("configfs-tsm gives %s reports, not %s", got, kind)
	}
	if out, err = readBounded(filepath.Join(entry, "outblob"), maxBlob); err != nil {
		return nil, nil, err
	}
	// There is none with TDX, and with SEV-SNP where the host has no certificates.
	aux, err = readBounded(filepath.Join(entry, "auxblob"), maxBlob)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	after, err := generation(entry)
	if err != nil {
		return nil, nil, err
	}
	if after != before+1 {
		return nil, nil, fmt.Errorf("%s was written to %d times between request and report: another program uses it", entry, after-before)
	}
	return out, aux, nil
}

func generation(entry string) (uint64, error) {
	text, err := readBounded(filepath.Join(entry, "generation"), 64)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s/generation: %w", entry, err)
	}
	return n, nil
}

// writeBlob writes in one piece; the kernel takes it at the close.
func writeBlob(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // #nosec G304 -- within the operator's directory
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
