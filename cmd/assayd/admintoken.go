package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/store"
)

// bootstrapAdmin writes the first admin token of a fresh database to the token file (mode 0600) and
// returns it; it returns "" where the database has one. The file is prepared before the token is made,
// so that a folder that cannot be written costs no token.
func bootstrapAdmin(ctx context.Context, st *store.Store, file string, now time.Time) (secret string, err error) {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", badConfig("the folder of the admin token cannot be made: %v; --admin-token-file names another", err)
	}
	f, err := os.CreateTemp(dir, ".admin.token-*") // mode 0600
	if err != nil {
		return "", badConfig("the admin token cannot be written: %v; --admin-token-file names another place", err)
	}
	defer func() {
		if secret == "" || err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	secret, err = server.BootstrapAdminToken(ctx, st, store.DefaultTenant, now, rand.Reader)
	if err != nil || secret == "" {
		return "", err
	}
	if _, err := f.WriteString(secret + "\n"); err != nil {
		return "", fmt.Errorf("write the admin token: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("write the admin token: %w", err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return "", fmt.Errorf("write the admin token: %w", err)
	}
	return secret, nil
}
