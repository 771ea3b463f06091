package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

// RoleConfig is what the service's connections to Postgres act as.
type RoleConfig struct {
	// DatabaseAppRole owns nothing and is bound by row-level security, which keeps tenants apart where a statement does not. assayd
	// migrate makes it where its login may make roles; else an administrator of the database does: CREATE ROLE assay_app NOLOGIN.
	//
	// Danger: a login that owns the tables, or is a superuser, can lay the role down again, and so can whoever smuggles SQL
	// into a statement. Give the service a login of its own that is a member of the role and of nothing else, and migrate by
	// another (DatabaseMigrateURL, or assayd migrate): see deploy/README.md. The embedded Postgres is set up so.
	DatabaseAppRole string `env:"ASSAY_DATABASE_APP_ROLE" default:"assay_app" placeholder:"ROLE" help:"Role that the service's connections act as (${default}); it owns nothing, so that row-level security binds it. assayd migrate makes it."`
}

// OwnerConfig is by which login the schema is brought up to date.
type OwnerConfig struct {
	// DatabaseMigrateURL is the database as the owner of the tables sees it. Nothing but migrations uses it. Empty: DatabaseURL.
	//
	// Danger: as of DatabaseURL. The service needs it only without NoMigrate; better it has it not, and assayd migrate has.
	DatabaseMigrateURL keyring.Secret `env:"ASSAY_DATABASE_MIGRATE_URL" placeholder:"URL" help:"The same database by the login that owns the tables, for migrations only; --database-url otherwise."`
}

// LoginConfig is the service's own login, which assayd migrate can make.
type LoginConfig struct {
	// DatabaseServiceLogin is made, or given the password, by assayd migrate: a member of DatabaseAppRole and of nothing else.
	DatabaseServiceLogin string `env:"ASSAY_DATABASE_SERVICE_LOGIN" placeholder:"ROLE" help:"Login to make for the service: a member of the role that it acts as, and of nothing else. It needs --database-service-password-file."`

	// DatabaseServicePasswordFile holds its password, one line of printable ASCII. Postgres is sent a SCRAM verifier of it, so that the
	// password is in no log of the server.
	DatabaseServicePasswordFile string `env:"ASSAY_DATABASE_SERVICE_PASSWORD_FILE" placeholder:"FILE" help:"File with that login's password, one line."`
}

// embeddedLogin is the service's own login on the embedded Postgres, which trusts whoever reaches its socket.
const embeddedLogin = "assay_service"

// migrateDatabase brings the schema up to date as its owner. url is the service's.
func (c *Config) migrateDatabase(ctx context.Context, url string) error {
	roles := store.Roles{App: c.Roles.DatabaseAppRole}
	if c.DatabaseURL.Empty() {
		roles.Login = embeddedLogin
	} else if c.Login.DatabaseServiceLogin != "" {
		password, err := os.ReadFile(c.Login.DatabaseServicePasswordFile)
		if err != nil {
			return badConfig("--database-service-password-file: %v", err)
		}
		if roles.Verifier, err = store.ScramVerifier(strings.TrimRight(string(password), "\r\n")); err != nil {
			return badConfig("--database-service-password-file: %v", err)
		}
		roles.Login = c.Login.DatabaseServiceLogin
	}
	err := store.MigrateWith(ctx, c.owner(url), roles)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" { // insufficient_privilege
		return fmt.Errorf("%w: this login does not own the schema; run assayd migrate with one that does and start the service with --no-migrate, or name that one by --database-migrate-url", err)
	}
	return err
}

// owner is the URL by which the owner of the tables comes; url is the service's, which is the owner's where no other is named.
func (c *Config) owner(url string) string {
	return cmp.Or(c.ownerURL, string(c.Owner.DatabaseMigrateURL.Reveal()), url)
}

// checkFence refuses to serve where the service's role is no fence, and says where it could be laid down.
func checkFence(ctx context.Context, st *store.Store, log *slog.Logger) error {
	f, err := st.Fence(ctx)
	if err != nil {
		return err
	}
	if f.LoginOwns {
		log.Warn("the service's database login owns the tables or is a superuser: row-level security then stops a statement that forgets its tenant, and not one that somebody has smuggled SQL into; "+
			"give the service a login of its own (deploy/README.md)", "login", f.Login, "role", f.Role)
	}
	return nil
}
