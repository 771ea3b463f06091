package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

// KEKConfig is what encrypts the service's keys in the database.
type KEKConfig struct {
	// KeyFile holds the key-encryption keys, a line each: an id, a space, 32 bytes in base64. The first seals, all open. Only its
	// owner may read it (mode 0600). assayd keys generate makes one. Default with the embedded Postgres: key-encryption.keys in
	// DataDir, made at the first start; with DatabaseURL none, and the keys are not encrypted.
	//
	// Danger: without this file the keys in the database, and its backups, are lost: agents have to enrol again. Keep a copy apart
	// from the database's.
	KeyFile string `env:"ASSAY_KEY_FILE" placeholder:"FILE" help:"Key-encryption keys that seal the service's keys in the database; mode 0600, made by assayd keys generate. With the embedded Postgres key-encryption.keys in the data folder otherwise."`

	// KeyCommand is a program that wraps keys with a KMS or an HSM, with its arguments between spaces; no shell is involved. What it reads
	// and answers is documented at keyring.Command. It seals, and the keys of KeyFile still open, so that one can follow the other.
	//
	// Danger: the service does not start while the program fails.
	KeyCommand string `env:"ASSAY_KEY_COMMAND" placeholder:"PROGRAM" help:"Program that wraps keys with a KMS: JSON on standard input and output. It goes before the key file, whose keys still open."`

	// KeyIDs are the ids of the KMS's keys that KeyCommand is asked for: the first seals, all open.
	KeyIDs []string `name:"key-id" env:"ASSAY_KEY_ID" default:"kms" placeholder:"ID,..." help:"Ids that the key command is asked for: the first seals, all open (${default})."`
}

// ResultConfig is how results for relying parties are signed.
type ResultConfig struct {
	// ResultLifetime bounds how long a result is valid. It never is for longer than until the next attestation is due.
	ResultLifetime time.Duration `env:"ASSAY_RESULT_LIFETIME" default:"1h" placeholder:"DURATION" help:"Longest validity of a signed result, 1m to 24h (${default}); none outlives the attestation interval."`

	// SigningKeyRotation is how long a key signs results before the next one does. 0: until assayd keys rotate, or the API, says so.
	SigningKeyRotation time.Duration `env:"ASSAY_SIGNING_KEY_ROTATION" default:"720h" placeholder:"DURATION" help:"How long a key signs results before the next one does (${default}); 0 for by hand only."`
}

func (r *ResultConfig) check() error {
	if r.ResultLifetime < time.Minute || r.ResultLifetime > token.MaxLifetime {
		return badConfig("--result-lifetime: %s is outside 1m to %s", r.ResultLifetime, token.MaxLifetime)
	}
	if r.SigningKeyRotation != 0 && r.SigningKeyRotation < time.Hour {
		return badConfig("--signing-key-rotation: %s is less than 1h; 0 is for by hand only", r.SigningKeyRotation)
	}
	return nil
}

func (r *ResultConfig) tokens(st *store.Store) token.Config {
	return token.Config{Store: st, Now: time.Now, RotateEvery: r.SigningKeyRotation, Lifetime: r.ResultLifetime}
}

// ring reads the key-encryption keys. nil means that there are none, which is refused where keys in the database are sealed
// (with inUse).
func (c *Config) ring(inUse []string, log *slog.Logger) (*keyring.Ring, error) {
	var wrappers []keyring.Wrapper
	if argv := strings.Fields(c.KEK.KeyCommand); len(argv) > 0 {
		for _, id := range c.KEK.KeyIDs {
			w, err := keyring.NewCommand(id, argv)
			if err != nil {
				return nil, badConfig("--key-command: %v", err)
			}
			wrappers = append(wrappers, w)
		}
	}
	file := c.KEK.KeyFile
	if file == "" && c.DatabaseURL == "" && (len(wrappers) == 0 || exists(c.ownKeyFile())) {
		file = c.ownKeyFile()
		if !exists(file) {
			if len(inUse) > 0 {
				return nil, badConfig("the key file %s is missing, and the keys in the database are sealed with %s: put it back from its copy, or name one with --key-file", file, strings.Join(inUse, ", "))
			}
			if _, err := keyring.CreateKeyFile(file); err != nil {
				return nil, err
			}
			log.Info("made a key file, which encrypts the service's keys: keep a copy apart from the database's", "file", file)
		}
	}
	if file != "" {
		keys, err := keyring.ReadKeyFile(file)
		if err != nil {
			return nil, badConfig("--key-file: %v", err)
		}
		wrappers = append(wrappers, keys...)
	}
	if len(wrappers) == 0 {
		if len(inUse) > 0 {
			return nil, badConfig("the keys in the database are sealed with %s: give that key with --key-file or --key-command", strings.Join(inUse, ", "))
		}
		log.Warn("the service's keys are in the database as they are: --key-file or --key-command encrypts them")
		return nil, nil
	}
	ring, err := keyring.NewRing(wrappers[0], wrappers[1:]...)
	if err != nil {
		return nil, badConfig("--key-file and --key-command: %v", err)
	}
	return ring, nil
}

// ownKeyFile is the key file of the embedded Postgres.
func (c *Config) ownKeyFile() string { return filepath.Join(c.DataDir, "key-encryption.keys") }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// openWithKeys opens the store with the key-encryption keys, and seals what is not sealed yet.
func (c *Config) openWithKeys(ctx context.Context, url string, o store.Options, log *slog.Logger) (*store.Store, error) {
	st, err := store.Open(ctx, url, o)
	if err != nil {
		return nil, err
	}
	if err := c.giveKeys(ctx, st, log); err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

// giveKeys gives the key-encryption keys to a store that was just opened, and seals what is not sealed yet.
func (c *Config) giveKeys(ctx context.Context, st *store.Store, log *slog.Logger) error {
	if err := st.CheckMigrations(ctx); err != nil {
		return err
	}
	inUse, err := st.KEKsInUse(ctx)
	if err != nil {
		return err
	}
	ring, err := c.ring(inUse, log)
	if err != nil || ring == nil {
		return err
	}
	st.UseKeys(ring)
	sealed, err := st.ReencryptServiceKeys(ctx, store.SealPlain)
	if err != nil {
		return err
	}
	if sealed > 0 {
		log.Info("sealed the service's keys", "keys", sealed, "with", ring.CurrentID())
	}
	return nil
}
