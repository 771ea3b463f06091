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

// MachineTokenLifetime is how long an agent may use a machine token before it has to enrol again.
const MachineTokenLifetime = 365 * 24 * time.Hour

// The payload of a machine token: version, tenant, machine, attestation key, issue time (ms).
const (
	machineTokenVersion = 1
	machinePayloadSize  = 1 + 16 + 16 + 16 + 8
	machineTokenSize    = machinePayloadSize + sha256.Size
)

// clockSkew tolerates replicas whose clocks differ.
const clockSkew = 5 * time.Minute

// MachineToken makes the token of an enrolled machine. keyID is the attestation key that was proved:
// when it is replaced, the token ends with it.
func (s *Service) MachineToken(tenant, machineID, keyID uuid.UUID, issued time.Time) string {
	buf := make([]byte, 0, machineTokenSize)
	buf = append(buf, machineTokenVersion)
	buf = append(buf, tenant[:]...)
	buf = append(buf, machineID[:]...)
	buf = append(buf, keyID[:]...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(issued.UnixMilli())) //nolint:gosec // times before 1970 are not issued
	buf = s.machineMAC(buf, buf)
	return MachinePrefix + base64.RawURLEncoding.EncodeToString(buf)
}

// VerifyMachineToken checks a machine token and says whose it is. The error is ErrInvalid for
// everything that this service did not issue or that has expired at now. That keyID still is the
// machine's active key is for the caller to compare.
func (s *Service) VerifyMachineToken(token string, now time.Time) (tenant, machineID, keyID uuid.UUID, err error) {
	encoded, ok := strings.CutPrefix(token, MachinePrefix)
	if !ok || len(encoded) != base64.RawURLEncoding.EncodedLen(machineTokenSize) {
		return uuid.Nil, uuid.Nil, uuid.Nil, ErrInvalid
	}
	var buf [machineTokenSize]byte
	n, decodeErr := base64.RawURLEncoding.Strict().Decode(buf[:], []byte(encoded))
	if decodeErr != nil || n != machineTokenSize {
		return uuid.Nil, uuid.Nil, uuid.Nil, ErrInvalid
	}
	payload, mac := buf[:machinePayloadSize], buf[machinePayloadSize:]
	if !hmac.Equal(mac, s.machineMAC(nil, payload)) || payload[0] != machineTokenVersion {
		return uuid.Nil, uuid.Nil, uuid.Nil, ErrInvalid
	}
	issued := time.UnixMilli(int64(binary.BigEndian.Uint64(payload[49:]))) //nolint:gosec // the MAC says that it is ours
	if !now.Before(issued.Add(MachineTokenLifetime)) || issued.After(now.Add(clockSkew)) {
		return uuid.Nil, uuid.Nil, uuid.Nil, ErrInvalid
	}
	copy(tenant[:], payload[1:17])
	copy(machineID[:], payload[17:33])
	copy(keyID[:], payload[33:49])
	return tenant, machineID, keyID, nil
}

func (s *Service) machineMAC(dst, payload []byte) []byte {
	mac := hmac.New(sha256.New, s.machineKey)
	mac.Write(payload)
	return mac.Sum(dst)
}
