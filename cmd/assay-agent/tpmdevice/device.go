// Package tpmdevice does with a TPM 2.0 what an attester needs: read the endorsement key and its
// certificates, make and load an attestation key, activate a credential, read PCRs and quote them.
//
//	device, err := tpmdevice.Open("")               // /dev/tpmrm0, else /dev/tpm0
//	ek, err := device.EK()
//	blob, ak, err := device.CreateAK(tpmdevice.ECDSA)
//	secret, err := device.Activate(ak, ek, credentialBlob, encryptedSecret)
//	evidence, err := device.Quote(ak, nonce, selection)
//
// "Part 1" to "Part 3" in comments are those of the TCG Trusted Platform Module Library Specification,
// Family 2.0; "EK profile" is the TCG EK Credential Profile for TPM Family 2.0, version 2.5.
package tpmdevice

import (
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// DefaultPaths are tried in order where no TPM is named. The first is the kernel's resource manager, so
// that other programs may use the TPM at the same time.
var DefaultPaths = []string{"/dev/tpmrm0", "/dev/tpm0"}

// ErrNoTPM is the error of Open where no TPM is named and there is none.
var ErrNoTPM = errors.New("this machine has no TPM 2.0")

// None as a path stands for no TPM, also where there is one.
const None = "none"

// Device is an open TPM. It may be used by one goroutine at a time.
type Device struct {
	Path string
	tpm  transport.TPMCloser
}

// Open opens a TPM: a device file, a unix socket that serves plain TPM commands (swtpm), or, for an empty
// path, the first of DefaultPaths that exists.
func Open(path string) (*Device, error) {
	if path == None {
		return nil, fmt.Errorf("%w to be used", ErrNoTPM)
	}
	if path == "" {
		for _, p := range DefaultPaths {
			if _, err := os.Stat(p); err == nil {
				path = p
				break
			}
		}
		if path == "" {
			return nil, fmt.Errorf("%w: there is neither %s nor %s", ErrNoTPM, DefaultPaths[0], DefaultPaths[1])
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open the TPM: %w", err)
	}
	var tpm transport.TPMCloser
	if info.Mode()&os.ModeSocket != 0 {
		tpm, err = linuxudstpm.Open(path)
	} else {
		tpm, err = linuxtpm.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the TPM: %w", err)
	}
	return &Device{Path: path, tpm: tpm}, nil
}

// Close ends the use of the TPM. Keys that are still loaded must have been closed before: a TPM without
// resource manager keeps them until it is reset.
func (d *Device) Close() error { return d.tpm.Close() }

// Key is a key that the TPM holds ready.
type Key struct {
	// Public is the TPMT_PUBLIC.
	Public []byte
	// Name is nameAlg and the digest of Public.
	Name []byte

	device    *Device
	handle    tpm2.TPMHandle
	public    tpm2.TPMTPublic
	transient bool
}

// Close frees the key's place in the TPM. Keys that are persistent stay.
func (k *Key) Close() error {
	if k == nil || !k.transient {
		return nil
	}
	k.transient = false
	return k.device.flush(k.handle)
}

func (d *Device) flush(h tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(d.tpm); err != nil {
		return fmt.Errorf("TPM2_FlushContext: %w", err)
	}
	return nil
}

func (d *Device) newKey(h tpm2.TPMHandle, public tpm2.TPM2BPublic, name tpm2.TPM2BName, transient bool) (*Key, error) {
	contents, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("read the key's public area: %w", err)
	}
	return &Key{Public: tpm2.Marshal(contents), Name: name.Buffer, device: d, handle: h, public: *contents, transient: transient}, nil
}

// createPrimary makes a primary key of the endorsement hierarchy. The same template gives the same key
// until the hierarchy's seed changes.
func (d *Device) createPrimary(template tpm2.TPMTPublic) (*Key, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(template),
	}.Execute(d.tpm)
	if err != nil {
		return nil, explain("TPM2_CreatePrimary", err)
	}
	key, err := d.newKey(rsp.ObjectHandle, rsp.OutPublic, rsp.Name, true)
	if err != nil {
		return nil, errors.Join(err, d.flush(rsp.ObjectHandle))
	}
	return key, nil
}

// persistent reads a key that was made persistent; nil if there is none at h.
func (d *Device) persistent(h tpm2.TPMHandle) (*Key, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(d.tpm)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("TPM2_ReadPublic 0x%08x: %w", h, err)
	}
	return d.newKey(h, rsp.OutPublic, rsp.Name, false)
}

// handles lists the TPM's handles from first on, as long as they have its type.
func (d *Device) handles(first uint32) ([]tpm2.TPMHandle, error) {
	var out []tpm2.TPMHandle
	for next := first; ; {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: next, PropertyCount: 64}.Execute(d.tpm)
		if err != nil {
			return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
		}
		out = append(out, list.Handle...)
		if !rsp.MoreData || len(list.Handle) == 0 {
			return out, nil
		}
		next = uint32(list.Handle[len(list.Handle)-1]) + 1
	}
}

// explain adds what to do about errors that a person can do something about.
func explain(command string, err error) error {
	switch {
	case errors.Is(err, tpm2.TPMRCObjectMemory):
		return fmt.Errorf("%s: %w: the TPM is full of loaded keys; use /dev/tpmrm0, or free them with tpm2_flushcontext -t", command, err)
	case errors.Is(err, tpm2.TPMRCLockout):
		return fmt.Errorf("%s: %w: the TPM has locked itself after failed authorizations; wait, or use tpm2_dictionarylockout", command, err)
	case errors.Is(err, tpm2.TPMRCInitialize):
		return fmt.Errorf("%s: %w: nobody has started the TPM (TPM2_Startup)", command, err)
	}
	return fmt.Errorf("%s: %w", command, err)
}
