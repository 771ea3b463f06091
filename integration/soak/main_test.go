// Package soak lets a fleet live for days that pass in minutes: its clock is passed in. Machines with keys in software attest
// to the real service on a real Postgres, fall silent, boot, deviate and come back; a model says what must have been found,
// and the database is compared with it.
package soak

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

var postgres *embedded.Postgres

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if postgres, err = embedded.Start(context.Background(), embedded.Config{DataDir: dir}); err != nil {
		return 1, err
	}
	defer func() { _ = postgres.Stop(context.Background()) }()
	return m.Run(), nil
}

// database makes an empty database with the schema. A commit need not reach the disk: nobody pulls the plug here.
func database(t *testing.T, name string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, sql := range []string{`CREATE DATABASE ` + name, `ALTER DATABASE ` + name + ` SET synchronous_commit = off`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	u, err := url.Parse(postgres.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	if err := store.Migrate(t.Context(), u.String()); err != nil {
		t.Fatal(err)
	}
	return u.String()
}
