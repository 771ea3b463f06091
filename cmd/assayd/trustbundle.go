package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/anchors"
)

// The settings of Config.TrustBundle.
const (
	bundleEnabled = "enabled"
	bundleNone    = "none"
)

// syncTrustBundles brings every tenant the vendors' roots that this version ships.
func syncTrustBundles(ctx context.Context, st *store.Store, setting string, now time.Time) error {
	tenants, err := st.Tenants(ctx)
	if err != nil {
		return err
	}
	for _, tenant := range tenants {
		if err := syncTrustBundle(ctx, st, tenant, setting, now); err != nil {
			return err
		}
	}
	return nil
}

// syncTrustBundle brings a tenant the vendors' roots that this version ships.
func syncTrustBundle(ctx context.Context, st *store.Store, tenant uuid.UUID, setting string, now time.Time) error {
	if setting == bundleNone {
		return nil
	}
	bundle, err := anchors.Bundle()
	if err != nil {
		return err
	}
	shipped := make([]store.ShippedAnchor, len(bundle))
	for i, a := range bundle {
		shipped[i] = store.ShippedAnchor{Name: a.Name, Purpose: a.Purpose, Source: a.Source}
		for _, c := range a.Certificates {
			sum := sha256.Sum256(c.Raw)
			shipped[i].Certificates = append(shipped[i].Certificates, store.TrustCertificate{
				DER: c.Raw, Subject: strings.ToValidUTF8(c.Subject.String(), "?"), Fingerprint: hex.EncodeToString(sum[:]), NotAfter: c.NotAfter})
		}
	}
	return st.SyncShippedAnchors(ctx, tenant, shipped, setting == bundleEnabled, now)
}
