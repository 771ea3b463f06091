package store

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Roles are the database roles that Migrate prepares.
type Roles struct {
	// App is the role that the service's connections act as; empty means DefaultRole. It is made where it does not exist and
	// the migrating login may make roles.
	App string
	// Login is a login without a password that is made for the service, where the server trusts its callers (the embedded
	// one): a member of App, and of nothing else. Empty: none is made.
	Login string
	// Verifier is what its password is checked by (ScramVerifier); empty for a login without a password.
	Verifier string
}

// secure puts each table of tenants behind row-level security, and gives the service's role what it needs. What is so
// already stays untouched, so that a replica that starts changes nothing. It is for one caller at a time (jobLock).
func secure(ctx context.Context, conn *pgx.Conn, roles Roles) error {
	if roles.App == "" {
		roles.App = DefaultRole
	}
	if err := ensureRoles(ctx, conn, roles); err != nil {
		return err
	}
	rows, _ := conn.Query(ctx, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped) ORDER BY c.relname`)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list the tables of tenants: %w", err)
	}
	for _, table := range tables {
		if err := secureTable(ctx, conn, table, roles.App); err != nil {
			return fmt.Errorf("put table %s behind row-level security: %w", table, err)
		}
	}
	if _, err := conn.Exec(ctx, `SELECT assay_admit($1)`, roles.App); err != nil {
		return fmt.Errorf("grant the role %s what the service needs: %w", roles.App, err)
	}
	return nil
}

// A change of a table waits for whoever uses it, and all who come later wait for the change. So it waits for a moment only, and
// tries again.
const (
	secureTries = 20
	secureWait  = "2s"
	securePause = 500 * time.Millisecond
)

// secureTable secures one table in a transaction of its own, so that no two tables are ever locked.
func secureTable(ctx context.Context, conn *pgx.Conn, table, role string) error {
	for try := 1; ; try++ {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '`+secureWait+`'`); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `SELECT assay_secure($1::text::regclass, $2)`, table, role)
			return err
		})
		switch {
		case err == nil:
			return nil
		case try == secureTries, !isCode(err, "55P03") && !isCode(err, "40P01"): // lock_not_available, deadlock_detected
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(securePause):
		}
	}
}

// ensureRoles makes the roles that are missing. They are the whole cluster's: another database may be migrated at this moment.
func ensureRoles(ctx context.Context, conn *pgx.Conn, roles Roles) error {
	app := pgx.Identifier{roles.App}.Sanitize()
	if err := ensureRole(ctx, conn, roles.App, "CREATE ROLE "+app+" NOLOGIN NOINHERIT"); err != nil {
		return err
	}
	var me string
	var member bool
	if err := conn.QueryRow(ctx, `SELECT current_user::text, pg_has_role(current_user, $1, 'MEMBER')`, roles.App).Scan(&me, &member); err != nil {
		return fmt.Errorf("look at the role %s: %w", roles.App, err)
	}
	if !member {
		// One login for migrations and service has to be able to take the role. Where it may not be granted, a login of the
		// service's own takes it.
		if err := grantRole(ctx, conn, roles.App, me); err != nil && !isCode(err, "42501") {
			return fmt.Errorf("grant the role %s to %s: %w", roles.App, me, err)
		}
	}
	if roles.Login == "" {
		return nil
	}
	login := pgx.Identifier{roles.Login}.Sanitize()
	if err := ensureRole(ctx, conn, roles.Login, "CREATE ROLE "+login+" LOGIN NOINHERIT"); err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, `SELECT pg_has_role($1, $2, 'MEMBER')`, roles.Login, roles.App).Scan(&member); err != nil {
		return fmt.Errorf("look at the role %s: %w", roles.Login, err)
	}
	if roles.Verifier != "" {
		// The verifier is of letters, digits and the signs of base64 and its format alone.
		if _, err := conn.Exec(ctx, "ALTER ROLE "+login+" PASSWORD '"+roles.Verifier+"'"); err != nil {
			return fmt.Errorf("set the password of the login %s: %w", roles.Login, err)
		}
	}
	if !member {
		if err := grantRole(ctx, conn, roles.App, roles.Login); err != nil {
			return fmt.Errorf("grant the role %s to %s: %w", roles.App, roles.Login, err)
		}
	}
	return nil
}

// ensureRole makes a role unless it exists.
func ensureRole(ctx context.Context, conn *pgx.Conn, name, create string) error {
	var exists bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)`, name).Scan(&exists); err != nil {
		return fmt.Errorf("look for the role %s: %w", name, err)
	}
	if exists {
		return nil
	}
	_, err := conn.Exec(ctx, create)
	switch {
	case err == nil, isCode(err, "42710"), isViolation(err, ""): // another migration has made it at this moment
		return nil
	case isCode(err, "42501"):
		return &roleError{name, errors.New("it does not exist, and this login may not make it")}
	}
	return fmt.Errorf("make the role %s: %w", name, err)
}

// grantRole makes member a member of role. A concurrent grant of the same is no error.
func grantRole(ctx context.Context, conn *pgx.Conn, role, member string) error {
	_, err := conn.Exec(ctx, "GRANT "+pgx.Identifier{role}.Sanitize()+" TO "+pgx.Identifier{member}.Sanitize())
	var pg *pgconn.PgError
	if isViolation(err, "") || errors.As(err, &pg) && pg.Code == "XX000" { // "tuple concurrently updated"
		_, err = conn.Exec(ctx, "GRANT "+pgx.Identifier{role}.Sanitize()+" TO "+pgx.Identifier{member}.Sanitize())
	}
	return err
}

// scramIterations is what Postgres itself takes (scram_iterations, PostgreSQL 16 documentation, section 20.3).
const scramIterations = 4096

// ScramVerifier is what a Postgres stores of a password (RFC 5803, PostgreSQL 16 documentation, section 53.8), so that the
// password itself is not sent. Only printable ASCII is taken, which SASLprep (RFC 4013) leaves as it is.
func ScramVerifier(password string) (string, error) {
	if password == "" || strings.ContainsFunc(password, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", errors.New("a password of printable ASCII is needed")
	}
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("make a salt: %w", err)
	}
	return scramOf(password, salt)
}

func scramOf(password string, salt []byte) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, scramIterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	keyed := func(text string) []byte {
		m := hmac.New(sha256.New, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	stored := sha256.Sum256(keyed("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, b64(salt), b64(stored[:]), b64(keyed("Server Key"))), nil
}
