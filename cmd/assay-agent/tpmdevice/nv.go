package tpmdevice

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// maxNV bounds what is read of one NV index; certificates are far smaller.
const maxNV = 16 << 10

// What one TPM2_NV_Read asks for at least, since every TPM must be able to (PC Client Platform TPM Profile,
// TPM_PT_NV_BUFFER_MAX), and at most, since commands and answers have some 4 KB.
const (
	minNVChunk = 512
	maxNVChunk = 2048
)

// nvChunk is TPM_PT_NV_BUFFER_MAX within these bounds.
func (d *Device) nvChunk() int {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTNVBufferMax), PropertyCount: 1}.Execute(d.tpm)
	if err != nil {
		return minNVChunk
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != tpm2.TPMPTNVBufferMax {
		return minNVChunk
	}
	return int(min(max(list.TPMProperty[0].Value, minNVChunk), maxNVChunk))
}

// nvPublic reads the description of an NV index; nil when it does not exist.
func (d *Device) nvPublic(index uint32) (*tpm2.TPMSNVPublic, *tpm2.NamedHandle, error) {
	h := tpm2.TPMHandle(index)
	public, err := tpm2.NVReadPublic{NVIndex: h}.Execute(d.tpm)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("TPM2_NV_ReadPublic 0x%08x: %w", index, err)
	}
	contents, err := public.NVPublic.Contents()
	if err != nil {
		return nil, nil, fmt.Errorf("NV index 0x%08x: %w", index, err)
	}
	return contents, &tpm2.NamedHandle{Handle: h, Name: public.NVName}, nil
}

// ReadNV reads a whole NV index that is readable with an empty password of its own or of the owner. It
// returns nil when the index does not exist.
func (d *Device) ReadNV(index uint32) ([]byte, error) {
	contents, nv, err := d.nvPublic(index)
	if err != nil || contents == nil {
		return nil, err
	}
	size := int(contents.DataSize)
	if size > maxNV {
		return nil, fmt.Errorf("NV index 0x%08x has %d bytes, more than %d", index, size, maxNV)
	}
	auth := tpm2.AuthHandle{Handle: nv.Handle, Name: nv.Name, Auth: tpm2.PasswordAuth(nil)}
	if !contents.Attributes.AuthRead && contents.Attributes.OwnerRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	chunk := minNVChunk
	if size > chunk {
		chunk = d.nvChunk()
	}
	out := make([]byte, 0, size)
	for len(out) < size {
		rsp, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    *nv,
			Size:       uint16(min(chunk, size-len(out))),
			Offset:     uint16(len(out)),
		}.Execute(d.tpm)
		if err != nil {
			return nil, explain(fmt.Sprintf("TPM2_NV_Read 0x%08x", index), err)
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, fmt.Errorf("NV index 0x%08x ends after %d of %d bytes", index, len(out), size)
		}
		out = append(out, rsp.Data.Buffer...)
	}
	return out, nil
}

// WriteNV writes an ordinary NV index, of exactly the data's size, that may be written with an empty password
// of the owner or of its own. It tells false, and no error, when there is no such index.
func (d *Device) WriteNV(index uint32, data []byte) (written bool, err error) {
	contents, nv, err := d.nvPublic(index)
	if err != nil || contents == nil {
		return false, err
	}
	a := contents.Attributes
	if int(contents.DataSize) != len(data) || a.NT != tpm2.TPMNTOrdinary || a.WriteLocked || (!a.OwnerWrite && !a.AuthWrite) {
		return false, nil
	}
	auth := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	if !a.OwnerWrite {
		auth = tpm2.AuthHandle{Handle: nv.Handle, Name: nv.Name, Auth: tpm2.PasswordAuth(nil)}
	}
	_, err = tpm2.NVWrite{AuthHandle: auth, NVIndex: *nv, Data: tpm2.TPM2BMaxNVBuffer{Buffer: data}}.Execute(d.tpm)
	if err != nil {
		return false, explain(fmt.Sprintf("TPM2_NV_Write 0x%08x", index), err)
	}
	return true, nil
}

// EK certificate chain indices (EK profile, section 2.2.1.5.2).
const (
	nvChainFirst = 0x01c00100
	nvChainLast  = 0x01c001ff
)

// readChain reads the certificates that issued the EK certificate, where the TPM holds them. They are
// concatenated DER that may run on from one index into the next.
func (d *Device) readChain() ([][]byte, error) {
	handles, err := d.handles(nvChainFirst)
	if err != nil {
		return nil, err
	}
	var all []byte
	for _, h := range handles {
		if h > nvChainLast || len(all) > maxNV {
			break
		}
		b, err := d.ReadNV(uint32(h))
		if err != nil {
			return nil, err
		}
		all = append(all, b...)
	}
	return splitDER(all), nil
}

// splitDER takes concatenated certificates apart by their outermost length. It ends at padding.
func splitDER(b []byte) [][]byte {
	var out [][]byte
	for len(b) >= 4 && b[0] == 0x30 && b[1] == 0x82 {
		n := 4 + int(b[2])<<8 + int(b[3])
		if n > len(b) {
			break
		}
		out = append(out, bytes.Clone(b[:n]))
		b = b[n:]
	}
	return out
}
