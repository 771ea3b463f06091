package swtpm

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// resetCount reads the counter that only a reset moves.
func resetCount(t *testing.T, tpm *TPM) uint32 {
	t.Helper()
	device, err := linuxudstpm.Open(tpm.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = device.Close() }()
	r, err := tpm2.ReadClock{}.Execute(device)
	if err != nil {
		t.Fatal(err)
	}
	return r.CurrentTime.ClockInfo.ResetCount
}

func TestTPMSurvivesManyResets(t *testing.T) {
	tpm := New(t, Options{Name: "box"})
	before := resetCount(t, tpm)
	for range 5 { // three disorderly stops would lock it
		if err := tpm.Reset(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if after := resetCount(t, tpm); after != before+5 {
		t.Errorf("resetCount %d, then %d", before, after)
	}
	if err := tpm.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(tpm.Socket)); !os.IsNotExist(err) {
		t.Errorf("the socket's folder is left: %v", err)
	}
	if err := tpm.serve(context.Background()); err != nil { // for the cleanup to stop
		t.Fatal(err)
	}
}

func TestTPMsShareACA(t *testing.T) {
	ca := t.TempDir()
	one, two := New(t, Options{CADir: ca}), New(t, Options{CADir: ca})
	a, err := one.RootPEM()
	if err != nil {
		t.Fatal(err)
	}
	b, err := two.RootPEM()
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) || len(a) == 0 {
		t.Error("two roots")
	}
	for _, kind := range []string{"rsa2048", "secp384r1"} {
		c1, err1 := one.EKCertificate(kind)
		c2, err2 := two.EKCertificate(kind)
		if err1 != nil || err2 != nil || string(c1) == string(c2) {
			t.Errorf("%s: %v %v", kind, err1, err2)
		}
	}
}
