package attest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/rules"
	"github.com/assay-verifier/assay/verifier/tee"
)

// Config is what a Service is made of. Store, Token, Now and Random are needed.
type Config struct {
	Store  *store.Store
	Token  *token.Service
	Now    func() time.Time
	Random io.Reader // crypto/rand.Reader, or a deterministic one in a test
	Logger *slog.Logger

	// Build is the software and version that results name as their verifier, e.g. "assay 1.0.0".
	Build string
	// Issuer is the URL of this service in results; left out of them when empty.
	Issuer string
	// LogCacheBytes bounds the memory for parsed event logs. A log that is not cached is read from the
	// store and parsed again. 0 means 64 MiB.
	LogCacheBytes int64
	// PlatformCacheBytes bounds the memory for verified hardware reports; one that is not cached is verified again.
	// 0 means 64 MiB.
	PlatformCacheBytes int64
	// Observe, where given, is called once for every appraisal, for metrics.
	Observe func(Observation)
}

// Observation is what metrics learn of one appraisal.
type Observation struct {
	Status   verifier.Status
	Reason   verifier.Reason
	New      bool // the judgement changed: a verdict row was written
	Duration time.Duration
	LogBytes int // size of the event log that came with the evidence
}

// Service carries out the use cases of this package. It is safe for concurrent use.
type Service struct {
	store   *store.Store
	token   *token.Service
	now     func() time.Time
	random  io.Reader
	log     *slog.Logger
	build   string
	issuer  string
	observe func(Observation)
	nonces  *nonceMaker
	logs    *lru[logKey, parsedLog]
	keys    *lru[uuid.UUID, parsedKey]
	// endorsements are what EK certificates say, fleets what machines of a tenant show.
	endorsements *lru[endorsementKey, *finding.Endorsement]
	fleets       *lru[fleetKey, fleetSeen]
	// detected is when a machine last caused a comparison of the fleet.
	detected *lru[detectKey, time.Time]
	compiled *lru[versionKey, *verifier.Reference]
	rules    *lru[verifier.VersionRef, *rules.Set]
	trials   sync.Map // tenants (uuid.UUID) that have a trial under way
	// platforms are verified hardware reports, chains verified chains of certificates.
	platforms *lru[platformKey, provenPlatform]
	chains    *lru[chainsKey, *tee.Chains]
	// What verdicts were judged with is written down with them: policies as JSON, and the names of what a tenant trusts.
	policies *lru[verifier.VersionRef, []byte]
	trusted  *lru[chainsKey, trustNames]
	// bundleVerdicts is how many verdicts a bundle may hold.
	bundleVerdicts int64
}

// purposeNonce is the service key under which challenges are authenticated.
const purposeNonce = "challenge_nonce"

// New makes a Service. It fetches, or on the very first start makes, the key of the challenges.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Store == nil, cfg.Token == nil, cfg.Now == nil, cfg.Random == nil:
		return nil, errors.New("attest: Store, Token, Now and Random are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.LogCacheBytes == 0 {
		cfg.LogCacheBytes = 64 << 20
	}
	if cfg.PlatformCacheBytes == 0 {
		cfg.PlatformCacheBytes = 64 << 20
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Observation) {}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	key, err := cfg.Store.ServiceKey(ctx, store.DefaultTenant, purposeNonce, func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := io.ReadFull(cfg.Random, b)
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("attest: challenge key: %w", err)
	}
	return &Service{
		store:        cfg.Store,
		token:        cfg.Token,
		now:          cfg.Now,
		random:       cfg.Random,
		log:          cfg.Logger,
		build:        cfg.Build,
		issuer:       cfg.Issuer,
		observe:      cfg.Observe,
		nonces:       newNonceMaker(key),
		logs:         newLRU[logKey, parsedLog](cfg.LogCacheBytes),
		keys:         newLRU[uuid.UUID, parsedKey](maxCachedKeys),
		endorsements: newLRU[endorsementKey, *finding.Endorsement](maxEndorsements),
		fleets:       newLRU[fleetKey, fleetSeen](maxFleets),
		detected:     newLRU[detectKey, time.Time](maxDetected),
		compiled:     newLRU[versionKey, *verifier.Reference](maxCachedReferences),
		rules:        newLRU[verifier.VersionRef, *rules.Set](maxCachedRules),

		platforms: newLRU[platformKey, provenPlatform](cfg.PlatformCacheBytes),
		chains:    newLRU[chainsKey, *tee.Chains](maxCachedTenants),
		policies:  newLRU[verifier.VersionRef, []byte](maxCachedRules),
		trusted:   newLRU[chainsKey, trustNames](maxCachedTenants),

		bundleVerdicts: maxBundleVerdicts,
	}, nil
}

// Option refines a call.
type Option func(*options)

type options struct{ keyID *uuid.UUID }

// ByKey says that the caller authenticated with a machine token that names this attestation key. The
// call is refused with CodeUnauthenticated unless that is the machine's active key, so that a token
// ends with the key it was issued for.
func ByKey(keyID uuid.UUID) Option { return func(o *options) { o.keyID = &keyID } }

func collect(opts []Option) options {
	var o options
	for _, f := range opts {
		f(&o)
	}
	return o
}

// admits refuses a machine token whose key is no longer the machine's.
func (o options) admits(key *store.AttestationKey) error {
	if o.keyID == nil || (key != nil && key.ID == *o.keyID) {
		return nil
	}
	return &Error{Code: CodeUnauthenticated, Detail: "the token was issued for an attestation key that is no longer this machine's"}
}

// Challenge is what a machine's next quote has to answer.
type Challenge struct {
	Nonce        [32]byte         // the quote's extraData
	ExpiresAt    time.Time        // evidence has to arrive before
	PCRSelection map[string][]int // what the quote has to cover at least, by bank
	// KnownEventLog ("sha256:<hex>") is the machine's log that the verifier already holds; nil if none.
	KnownEventLog *string
	// KnownPlatformEvidence ("sha256:<hex>") is the machine's hardware evidence that the verifier already holds; nil if
	// none.
	KnownPlatformEvidence *string
	// IMALogOffset is the number of IMA entries that the verifier has read of this boot.
	IMALogOffset int
}

// Result is the answer to evidence: the recorded verdict, signed, and the next challenge.
type Result struct {
	ID          uuid.UUID // of the verdict
	MachineID   uuid.UUID
	ReceivedAt  time.Time
	Trigger     verifier.Trigger // of this evidence
	Appraisal   *verifier.Appraisal
	ResultToken string // EAR JWT
	// New is false where the verdict of the last evidence still stands and was counted up.
	New                         bool
	NextChallenge               *Challenge
	NextAttestationAfterSeconds int
}
