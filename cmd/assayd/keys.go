package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/store/keyring/hsm"
)

// keysCommand holds the commands about keys.
type keysCommand struct {
	Generate        keysGenerateCommand        `cmd:"" help:"Make a key-encryption key: a key file, or with - a line for one on standard output."`
	GenerateInToken keysGenerateInTokenCommand `cmd:"" name:"generate-pkcs11" help:"Make a key-encryption key in a PKCS #11 token, which never leaves it."`
	List            keysListCommand            `cmd:"" help:"List the keys that sign results."`
	Rotate          keysRotateCommand          `cmd:"" help:"Let the next key sign, at once or as soon as relying parties have had time to fetch it. A running service notices within half a minute."`
	Rewrap          keysRewrapCommand          `cmd:"" help:"Seal all keys with the first key of the token, of the key command, or of the key file. Services that have that key need no restart."`
}

// keysGenerateCommand makes a key file.
type keysGenerateCommand struct {
	File string `arg:"" placeholder:"FILE" help:"Where to write it, mode 0600; one that is there stays. - prints a line to be put on top of a key file."`
}

// Run makes it.
func (g *keysGenerateCommand) Run(p *process) error {
	if g.File == "-" {
		line, err := keyring.NewKeyLine(rand.Reader)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(p.stdout, line)
		return err
	}
	made, err := keyring.CreateKeyFile(g.File)
	if err != nil {
		return err
	}
	if !made {
		return badConfig("%s is there already, and may hold keys that are needed: nothing was changed", g.File)
	}
	return nil
}

// keysGenerateInTokenCommand makes a key in a token.
type keysGenerateInTokenCommand struct {
	Label  string       `arg:"" help:"Label of the key, which is its id too: 1 to 64 letters, digits, dots, dashes and underscores."`
	PKCS11 PKCS11Config `embed:""`
}

// Run makes it.
func (g *keysGenerateInTokenCommand) Run(*process) error {
	cfg, ok, err := g.PKCS11.config()
	if err != nil {
		return err
	}
	if !ok {
		return badConfig("--key-pkcs11-module is needed, and the token and PIN file with it")
	}
	return badPKCS11(hsm.Generate(cfg, g.Label))
}

// keyStore are the settings of the commands that open the database with its keys.
type keyStore struct {
	DataDir     string         `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"As for serve; used without --database-url."`
	DatabaseURL keyring.Secret `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"As for serve; without it the embedded Postgres, which no running service may use."`
	KEK         KEKConfig      `embed:""`
	Results     ResultConfig   `embed:""`
	Roles       RoleConfig     `embed:""`
}

// with opens the database for f.
func (k *keyStore) with(p *process, f func(*store.Store) error) (err error) {
	if err := k.Results.check(); err != nil {
		return err
	}
	c := &Config{DataDir: k.DataDir, DatabaseURL: k.DatabaseURL, KEK: k.KEK, Results: k.Results, Roles: k.Roles}
	log := newLogger(p.stderr, "warn", "text")
	url, stop, err := startDatabase(p.ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	st, err := c.openWithKeys(p.ctx, url, store.Options{MaxConns: 2, Role: c.Roles.DatabaseAppRole}, log)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.EnsureTenant(p.ctx, store.DefaultTenant, time.Now()); err != nil {
		return err
	}
	return f(st)
}

// withTokens does f with the keys that sign results, and prints them as they are afterwards.
func (k *keyStore) withTokens(p *process, output string, f func(*token.Service) error) error {
	return k.with(p, func(st *store.Store) error {
		tokens, err := token.New(p.ctx, k.Results.tokens(st))
		if err != nil {
			return err
		}
		if err := f(tokens); err != nil {
			return err
		}
		keys, err := tokens.Keys(p.ctx)
		if err != nil {
			return err
		}
		if output == "json" {
			return json.NewEncoder(p.stdout).Encode(map[string]any{"items": listedKeys(keys)})
		}
		for _, x := range listedKeys(keys) {
			fmt.Fprintf(p.stdout, "%-43s  %-6s %-9s %s\n", x.KeyID, x.Algorithm, x.State, x.When)
		}
		return nil
	})
}

// listedKey is one line of a list of keys.
type listedKey struct {
	KeyID       string     `json:"key_id"`
	Algorithm   string     `json:"algorithm"`
	State       string     `json:"state"`
	PublishedAt time.Time  `json:"published_at"`
	ActivatedAt *time.Time `json:"activated_at"`
	EndsAt      *time.Time `json:"ends_at"`
	RevokedAt   *time.Time `json:"revoked_at"`
	When        string     `json:"-"`
}

func listedKeys(keys []token.KeyInfo) []listedKey {
	out := make([]listedKey, len(keys))
	at := func(word string, t *time.Time) string {
		if t == nil {
			return ""
		}
		return word + " " + t.UTC().Format(time.RFC3339)
	}
	for i := range keys {
		k := &keys[i]
		x := listedKey{KeyID: k.ID, Algorithm: k.Algorithm, State: string(k.State), PublishedAt: k.PublishedAt, ActivatedAt: k.ActivatedAt, EndsAt: k.EndsAt, RevokedAt: k.RevokedAt}
		switch k.State {
		case token.Next:
			x.When = "published " + k.PublishedAt.UTC().Format(time.RFC3339)
			if k.ActivatedAt != nil {
				x.When = at("signs from", k.ActivatedAt)
			}
		case token.Active:
			x.When = at("signs since", k.ActivatedAt)
		case token.Retiring:
			x.When = at("published until", k.EndsAt)
		case token.Revoked:
			x.When = at("revoked", k.RevokedAt)
		case token.Gone:
		}
		out[i] = x
	}
	return out
}

// keysListCommand lists the signing keys.
type keysListCommand struct {
	keyStore `embed:""`
	Output   string `short:"o" enum:"human,json" default:"human" help:"human or json."`
}

// Run lists them.
func (l *keysListCommand) Run(p *process) error {
	return l.withTokens(p, l.Output, func(*token.Service) error { return nil })
}

// keysRotateCommand rotates the signing keys.
type keysRotateCommand struct {
	keyStore  `embed:""`
	Algorithm string `enum:",EdDSA,ES256" default:"" help:"EdDSA or ES256; both otherwise."`
	Output    string `short:"o" enum:"human,json" default:"human" help:"human or json."`
}

// Run rotates and lists.
func (r *keysRotateCommand) Run(p *process) error {
	return r.withTokens(p, r.Output, func(tokens *token.Service) error {
		return tokens.Rotate(p.ctx, r.Algorithm, store.Actor{Kind: "system", ID: fmt.Sprintf("assayd keys rotate, uid %d", os.Getuid())})
	})
}

// keysRewrapCommand seals all keys anew.
type keysRewrapCommand struct {
	keyStore `embed:""`
	Plain    bool `help:"Store all keys as they are instead, before a return to a version that cannot open them."`
}

// Run does it and says how many there were.
func (r *keysRewrapCommand) Run(p *process) error {
	return r.with(p, func(st *store.Store) error {
		what := store.SealAll
		if r.Plain {
			what = store.UnsealKeys
		}
		n, err := st.ReencryptServiceKeys(p.ctx, what)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.stdout, "%d keys changed\n", n)
		return err
	})
}
