package token

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/google/uuid"
)

// MachinePrefix begins every machine token, so that secret scanners know what they found.
const MachinePrefix = "assay_agt_"

// MachineTokenLifetime is how long an agent may use a machine token where Config.MachineLifetime says nothing else. One that
// attests gets a new token long before; one that does not has to enrol again.
const MachineTokenLifetime = 365 * 24 * time.Hour

// RenewAfter is the age at which a machine token is renewed with genuine evidence, at most; those that live shorter than
// three times that are renewed after a third of their life.
const RenewAfter = 24 * time.Hour

// The payload of a machine token: version, tenant, machine, attestation key, issue time (ms); of version 2 then the SHA-256 of
// the client certificate that it is bound to (RFC 8705, section 3).
const (
	machineTokenVersion = 1
	machineBoundVersion = 2
	machinePayloadSize  = 1 + 16 + 16 + 16 + 8
	machineBoundSize    = machinePayloadSize + sha256.Size
)

// clockSkew tolerates replicas whose clocks differ.
const clockSkew = 5 * time.Minute

// Machine is what a machine token says.
type Machine struct {
	Tenant, MachineID uuid.UUID
	KeyID             uuid.UUID // the attestation key that was proved: when it is replaced, the token ends with it
	Issued            time.Time // to the millisecond
	Certificate       []byte    // SHA-256 of the client certificate without which the token is refused; nil for none
}

// MachineToken makes the token of an enrolled machine.
func (s *Service) MachineToken(m Machine) string {
	buf := make([]byte, 0, machineBoundSize+sha256.Size)
	version := byte(machineTokenVersion)
	if m.Certificate != nil {
		version = machineBoundVersion
	}
	buf = append(buf, version)
	buf = append(buf, m.Tenant[:]...)
	buf = append(buf, m.MachineID[:]...)
	buf = append(buf, m.KeyID[:]...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(m.Issued.UnixMilli())) //nolint:gosec // times before 1970 are not issued
	buf = append(buf, m.Certificate...)
	buf = s.machineMAC(buf, buf)
	return MachinePrefix + base64.RawURLEncoding.EncodeToString(buf)
}

// VerifyMachineToken checks a machine token and says whose it is. The error is ErrInvalid for
// everything that this service did not issue or that has expired at now. For the caller to compare: that KeyID still is the
// machine's active key, and that the client has shown the certificate.
func (s *Service) VerifyMachineToken(token string, now time.Time) (Machine, error) {
	encoded, ok := strings.CutPrefix(token, MachinePrefix)
	if !ok || len(encoded) > base64.RawURLEncoding.EncodedLen(machineBoundSize+sha256.Size) {
		return Machine{}, ErrInvalid
	}
	var buf [machineBoundSize + sha256.Size]byte
	n, err := base64.RawURLEncoding.Strict().Decode(buf[:], []byte(encoded))
	bound := n == machineBoundSize+sha256.Size
	if err != nil || (!bound && n != machinePayloadSize+sha256.Size) {
		return Machine{}, ErrInvalid
	}
	payload, mac := buf[:n-sha256.Size], buf[n-sha256.Size:n]
	version := byte(machineTokenVersion)
	if bound {
		version = machineBoundVersion
	}
	if !hmac.Equal(mac, s.machineMAC(nil, payload)) || payload[0] != version {
		return Machine{}, ErrInvalid
	}
	issued := time.UnixMilli(int64(binary.BigEndian.Uint64(payload[49:]))) //nolint:gosec // the MAC says that it is ours
	if !now.Before(issued.Add(s.machineLifetime)) || issued.After(now.Add(clockSkew)) {
		return Machine{}, ErrInvalid
	}
	m := Machine{Tenant: uuid.UUID(payload[1:17]), MachineID: uuid.UUID(payload[17:33]), KeyID: uuid.UUID(payload[33:49]), Issued: issued}
	if bound {
		m.Certificate = append([]byte(nil), payload[machinePayloadSize:]...)
	}
	return m, nil
}

// Renews tells whether a machine token that was issued then is to be replaced.
func (s *Service) Renews(issued, now time.Time) bool {
	return now.Sub(issued) >= min(RenewAfter, s.machineLifetime/3)
}

func (s *Service) machineMAC(dst, payload []byte) []byte {
	mac := hmac.New(sha256.New, s.machineKey)
	mac.Write(payload)
	return mac.Sum(dst)
}
