package attest

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// Endorsements and the fleet's firmware are looked up once for many appraisals: an endorsement never changes while its
// proof is the same, and what a fleet shows is a matter of days.
type (
	endorsementKey struct {
		key       uuid.UUID
		assurance verifier.Assurance
		notAfter  int64 // a better proof of the same key has another certificate
	}
	fleetKey struct {
		tenant uuid.UUID
		family string
	}
	fleetSeen struct {
		at       time.Time
		versions []finding.FleetFirmware
	}
)

// fleetLife is how long what a fleet shows is not asked for again.
const fleetLife = time.Minute

// The most endorsements and firmware families that are kept in memory.
const (
	maxEndorsements = 1 << 16
	maxFleets       = 1 << 10
)

// endorsement is what is known of the TPM in which a key was proved to be; nil where nothing is.
func (s *Service) endorsement(ctx context.Context, tenant uuid.UUID, key *store.AttestationKey) (*finding.Endorsement, error) {
	if key == nil || key.Kind == store.KeyTEE {
		return nil, nil
	}
	id := endorsementKey{key: key.ID, assurance: key.Assurance}
	if key.CertificateNotAfter != nil {
		id.notAfter = key.CertificateNotAfter.UnixNano()
	}
	if e, ok := s.endorsements.get(id); ok {
		return e, nil
	}
	public, certificate, err := s.store.KeyEndorsement(ctx, tenant, key.ID)
	if err != nil {
		return nil, err
	}
	e := finding.EndorsementOf(public, certificate)
	s.endorsements.put(id, e, 1)
	return e, nil
}

// firmwareOf is what an appraisal shows of firmware that can be compared; nil where it shows none.
func firmwareOf(m *store.Machine, judged *verifier.Appraisal) *store.Firmware {
	c := judged.Claims.Claims
	if !judged.Genuine || c == nil || c.FirmwareVersion == nil {
		return nil
	}
	family := finding.FirmwareFamily(*c.FirmwareVersion, m.Labels["model"])
	if family == "" {
		return nil
	}
	return &store.Firmware{Family: family, Version: *c.FirmwareVersion}
}

// fleet is what other machines with such firmware show; nil where there is nothing to compare.
func (s *Service) fleet(ctx context.Context, a *appraisal, f *store.Firmware) (*finding.Fleet, error) {
	if f == nil {
		return nil, nil
	}
	id := fleetKey{a.tenant, f.Family}
	seen, ok := s.fleets.get(id)
	if age := a.now.Sub(seen.at); !ok || age < 0 || age >= fleetLife {
		versions, err := s.store.FleetFirmware(ctx, a.tenant, f.Family)
		if err != nil {
			return nil, err
		}
		seen = fleetSeen{a.now, versions}
		s.fleets.put(id, seen, 1)
	}
	return &finding.Fleet{Family: f.Family, Versions: seen.versions}, nil
}
