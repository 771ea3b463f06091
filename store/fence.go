package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The second fence between tenants is row-level security (migration 0023). The connections act as a role that owns nothing,
// and see the rows of the tenants in the setting assay.tenants alone. Which those are is in the context: withTenant is the first
// line of each method that is about a tenant. A connection is told when it is taken out of its pool, and only where it was
// told otherwise before, so that a service of one tenant pays nothing. A method that forgets sees no row.

// DefaultRole is the role that the service's connections act as, unless the operator names another.
const DefaultRole = "assay_app"

// tenantSet is the tenants of one statement: none, one, or those that all is about, sorted and each once.
type tenantSet struct {
	one     uuid.UUID
	several string // as array elements, where there is more than one
	any     bool   // the statement asks functions of the schema alone, so that it is all one
}

type tenantsKey struct{}

// withTenant says whose rows the statements of a context are about.
func withTenant(ctx context.Context, tenant uuid.UUID) context.Context {
	if known, _ := ctx.Value(tenantsKey{}).(tenantSet); known == (tenantSet{one: tenant}) {
		return ctx
	}
	return context.WithValue(ctx, tenantsKey{}, tenantSet{one: tenant})
}

// beforeTenant says that the statements of a context look at no table of tenants: they ask what has to be asked before a tenant is
// known, of functions that answer that alone (migration 0023). A connection is then left as it is.
func beforeTenant(ctx context.Context) context.Context {
	return context.WithValue(ctx, tenantsKey{}, tenantSet{any: true})
}

// withTenants says it of a statement that does the work of several callers at once.
func withTenants[T any](ctx context.Context, group []T, tenantOf func(T) uuid.UUID) context.Context {
	if len(group) == 0 {
		return ctx
	}
	first, same := tenantOf(group[0]), true
	for _, g := range group[1:] {
		same = same && tenantOf(g) == first
	}
	if same {
		return withTenant(ctx, first)
	}
	all := make([]uuid.UUID, len(group))
	for i, g := range group {
		all[i] = tenantOf(g)
	}
	slices.SortFunc(all, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	all = slices.Compact(all)
	texts := make([]string, len(all))
	for i, tenant := range all {
		texts[i] = tenant.String()
	}
	return context.WithValue(ctx, tenantsKey{}, tenantSet{several: strings.Join(texts, ",")})
}

// setting is the value of assay.tenants: an array of uuid as text, or empty.
func (t tenantSet) setting() string {
	switch {
	case t.several != "":
		return "{" + t.several + "}"
	case t.one == uuid.Nil:
		return ""
	}
	return "{" + t.one.String() + "}"
}

// toldKey is where a connection keeps what it was told last.
const toldKey = "assay.tenants"

// tellTenants is a pool's PrepareConn: it tells the connection whose rows the caller may see, if that is not what it was
// told before. A call without a tenant takes the last one away.
func tellTenants(ctx context.Context, conn *pgx.Conn) (bool, error) {
	want, _ := ctx.Value(tenantsKey{}).(tenantSet)
	told, _ := conn.PgConn().CustomData()[toldKey].(*tenantSet)
	if told == nil { // a new connection was told nothing
		told = &tenantSet{}
		conn.PgConn().CustomData()[toldKey] = told
	}
	if want.any || *told == want {
		return true, nil
	}
	// Ids in their own form, so that nothing is to be quoted; the simple protocol takes one round trip.
	if err := conn.PgConn().Exec(ctx, "SET assay.tenants = '"+want.setting()+"'").Close(); err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return false, nil // the connection is dead: another one is taken
	}
	*told = want
	return true, nil
}

// roleError says that the connections cannot act as the service's role.
type roleError struct {
	role string
	err  error
}

func (e *roleError) Error() string {
	return fmt.Sprintf("the service cannot act as the database role %s (%v): run assayd migrate with a login that owns the tables; where that login may not make roles, "+
		"an administrator of the database runs CREATE ROLE %s NOLOGIN; GRANT %s TO the service's login; --database-app-role names another role", e.role, e.err, e.role, e.role)
}

func (e *roleError) Unwrap() error { return e.err }

// takeRole makes a new connection act as the service's role from now on.
func takeRole(ctx context.Context, conn *pgx.Conn, role string) error {
	_, err := conn.Exec(ctx, "SET ROLE "+pgx.Identifier{role}.Sanitize())
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return &roleError{role, err}
	}
	return err
}

// Fence is how the service's connections stand in the database.
type Fence struct {
	Role  string // that they act as
	Login string // that they connect as
	// LoginOwns: the login is a superuser, is bound by no policy, or has the rights of the tables' owner. Row-level security
	// then stops a statement that forgets its tenant, and not one that somebody has smuggled a RESET ROLE into.
	LoginOwns bool
}

const selectFence = `SELECT current_user::text, session_user::text,
		me.rolsuper OR me.rolbypassrls, EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND pg_has_role(current_user, c.relowner, 'USAGE')),
		login.rolsuper OR login.rolbypassrls OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace AND pg_has_role(session_user, c.relowner, 'MEMBER'))
	FROM pg_roles me, pg_roles login WHERE me.rolname = current_user AND login.rolname = session_user`

// Fence tells how the service's connections stand. It fails where their role is no fence: a superuser, one that policies do not
// bind, or the owner of a table.
func (s *Store) Fence(ctx context.Context) (Fence, error) {
	var f Fence
	var unbound, owns bool
	if err := s.pool.QueryRow(beforeTenant(ctx), selectFence).Scan(&f.Role, &f.Login, &unbound, &owns, &f.LoginOwns); err != nil {
		return Fence{}, fmt.Errorf("look at the service's database role: %w", err)
	}
	switch {
	case unbound:
		return f, fmt.Errorf("the database role %s is a superuser or has BYPASSRLS: no policy binds it, so that nothing but the service's own statements keeps tenants apart; --database-app-role names another", f.Role)
	case owns:
		return f, fmt.Errorf("the database role %s owns tables, or has the rights of their owner: no policy binds it; --database-app-role names another", f.Role)
	}
	return f, nil
}
