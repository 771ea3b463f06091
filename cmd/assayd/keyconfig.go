package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/store/keyring/hsm"
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

	// PKCS11 is a token that holds key-encryption keys.
	PKCS11 PKCS11Config `embed:""`
}

// PKCS11Config is a PKCS #11 token that holds key-encryption keys, and encrypts under them without giving them out. It needs an assayd
// that was built for it (make build-pkcs11).
type PKCS11Config struct {
	// KeyPKCS11Module is the path of the library that comes with the token.
	//
	// Danger: it runs in the service's process.
	KeyPKCS11Module string `name:"key-pkcs11-module" env:"ASSAY_KEY_PKCS11_MODULE" placeholder:"FILE" help:"PKCS #11 library of an HSM that holds key-encryption keys. They go before those of --key-command and --key-file, which still open. Needs make build-pkcs11."`

	// KeyPKCS11Token is the label of the token.
	KeyPKCS11Token string `name:"key-pkcs11-token" env:"ASSAY_KEY_PKCS11_TOKEN" placeholder:"LABEL" help:"Label of the token."`

	// KeyPKCS11Labels are the labels of the keys: the first seals, all open. assayd keys generate-pkcs11 makes one.
	//
	// Danger: a key that is lost with its token takes what it sealed along. Back the token up as its maker says, or keep the key of a
	// file that was used before as well.
	KeyPKCS11Labels []string `name:"key-pkcs11-label" env:"ASSAY_KEY_PKCS11_LABEL" placeholder:"LABEL,..." help:"Labels of the keys in the token: the first seals, all open."`

	// KeyPKCS11PINFile holds the PIN of the token's user, one line, mode 0600. A PIN that the token refuses is tried once.
	KeyPKCS11PINFile string `name:"key-pkcs11-pin-file" env:"ASSAY_KEY_PKCS11_PIN_FILE" placeholder:"FILE" help:"File with the PIN of the token's user; mode 0600."`
}

// config is the token that is named; ok is false where none is.
func (c *PKCS11Config) config() (cfg hsm.Config, ok bool, err error) {
	if c.KeyPKCS11Module == "" {
		if c.KeyPKCS11Token != "" || len(c.KeyPKCS11Labels) > 0 || c.KeyPKCS11PINFile != "" {
			return cfg, false, badConfig("--key-pkcs11-token, --key-pkcs11-label and --key-pkcs11-pin-file need --key-pkcs11-module")
		}
		return cfg, false, nil
	}
	if c.KeyPKCS11Token == "" || c.KeyPKCS11PINFile == "" {
		return cfg, false, badConfig("--key-pkcs11-module needs --key-pkcs11-token and --key-pkcs11-pin-file")
	}
	pin, err := hsm.ReadPIN(c.KeyPKCS11PINFile)
	if err != nil {
		return cfg, false, badConfig("--key-pkcs11-pin-file: %v", err)
	}
	return hsm.Config{Module: c.KeyPKCS11Module, Token: c.KeyPKCS11Token, PIN: pin}, true, nil
}

// wrappers are the keys of the token.
func (c *PKCS11Config) wrappers() ([]keyring.Wrapper, error) {
	cfg, ok, err := c.config()
	if err != nil || !ok {
		return nil, err
	}
	if len(c.KeyPKCS11Labels) == 0 {
		return nil, badConfig("--key-pkcs11-module needs --key-pkcs11-label, the keys to use")
	}
	keys, err := hsm.Open(cfg, c.KeyPKCS11Labels)
	return keys, badPKCS11(err)
}

// badPKCS11 tells settings that cannot work from a token that does not work now.
func badPKCS11(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hsm.ErrNotBuilt), errors.Is(err, hsm.ErrRefused), errors.Is(err, hsm.ErrKey):
		return badConfig("--key-pkcs11-module: %v", err)
	}
	return fmt.Errorf("--key-pkcs11-module: %w", err)
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
	wrappers, err := c.KEK.PKCS11.wrappers()
	if err != nil {
		return nil, err
	}
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
	if file == "" && c.DatabaseURL.Empty() && (len(wrappers) == 0 || exists(c.ownKeyFile())) {
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
			return nil, badConfig("the keys in the database are sealed with %s: give that key with --key-file, --key-pkcs11-module or --key-command", strings.Join(inUse, ", "))
		}
		log.Warn("the service's keys are in the database as they are: --key-file, --key-pkcs11-module or --key-command encrypts them")
		return nil, nil
	}
	ring, err := keyring.NewRing(wrappers[0], wrappers[1:]...)
	if err != nil {
		return nil, badConfig("--key-file, --key-pkcs11-label and --key-id: %v", err)
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
