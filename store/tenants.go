package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

// Tenant is one customer of the service.
type Tenant struct {
	ID        uuid.UUID
	Name      string // for people
	CreatedAt time.Time
}

// ErrTenantName is returned for a name that no tenant can have.
var ErrTenantName = errors.New("a tenant's name is 1 to 200 characters, without control characters, and without blanks at its ends")

// NewTenantID makes the id of a tenant that is about to be made.
func NewTenantID(now time.Time) uuid.UUID { return newID(now) }

// Tenants are the ids of all tenants, in their order.
func (s *Store) Tenants(ctx context.Context) ([]uuid.UUID, error) {
	rows, _ := s.pool.Query(beforeTenant(ctx), `SELECT assay_tenant_ids()`)
	all, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	return all, nil
}

// ListTenants is all tenants, in the order in which they were made. Each is read as what it is, so that no statement sees two.
func (s *Store) ListTenants(ctx context.Context) ([]Tenant, error) {
	ids, err := s.Tenants(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Tenant, len(ids))
	for i, id := range ids {
		if all[i], err = s.GetTenant(ctx, id); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// GetTenant reads a tenant. ErrNotFound.
func (s *Store) GetTenant(ctx context.Context, tenant uuid.UUID) (Tenant, error) {
	ctx = withTenant(ctx, tenant)
	t := Tenant{ID: tenant}
	if err := s.pool.QueryRow(ctx, `SELECT name, created_at FROM tenants WHERE tenant_id = $1`, tenant).Scan(&t.Name, &t.CreatedAt); err != nil {
		return Tenant{}, notFound(err, "tenant", tenant)
	}
	return t, nil
}

// EnsureTenant makes the tenant, with the name "default", where it is missing.
func (s *Store) EnsureTenant(ctx context.Context, tenant uuid.UUID, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	return s.inTx(ctx, func(tx pgx.Tx) error {
		_, err := makeTenant(ctx, tx, Tenant{ID: tenant, Name: "default", CreatedAt: now}, Actor{Kind: "system"})
		return err
	})
}

// CreateTenant makes a tenant with version 1 of its policy "default". ErrTenantName; ErrConflict where there is one of that id
// or name.
func (s *Store) CreateTenant(ctx context.Context, tenant uuid.UUID, name string, now time.Time, actor Actor) (Tenant, error) {
	ctx = withTenant(ctx, tenant)
	if err := s.checkTenantName(ctx, name); err != nil {
		return Tenant{}, err
	}
	t := Tenant{ID: tenant, Name: name, CreatedAt: now}
	return t, s.inTx(ctx, func(tx pgx.Tx) error {
		made, err := makeTenant(ctx, tx, t, actor)
		if err == nil && !made {
			err = fmt.Errorf("tenant %s: %w", tenant, ErrConflict)
		}
		return err
	})
}

// RenameTenant gives a tenant another name. ErrNotFound; as CreateTenant.
func (s *Store) RenameTenant(ctx context.Context, tenant uuid.UUID, name string, now time.Time, actor Actor) (Tenant, error) {
	ctx = withTenant(ctx, tenant)
	was, err := s.GetTenant(ctx, tenant)
	if err != nil {
		return Tenant{}, err
	}
	if was.Name == name {
		return was, nil
	}
	if err := s.checkTenantName(ctx, name); err != nil {
		return Tenant{}, err
	}
	is := was
	is.Name = name
	return is, s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE tenants SET name = $2 WHERE tenant_id = $1`, tenant, name); err != nil {
			return fmt.Errorf("rename tenant %s: %w", tenant, err)
		}
		return audit(ctx, tx, tenant, now, actor, "tenant.rename", "tenant:"+tenant.String(), map[string]any{"name": was.Name}, map[string]any{"name": name})
	})
}

// checkTenantName refuses a name that another tenant has. Of two that are made at the same moment both may get it: names are
// for people, and nothing goes by them.
func (s *Store) checkTenantName(ctx context.Context, name string) error {
	if name == "" || utf8.RuneCountInString(name) > 200 || !utf8.ValidString(name) || strings.TrimSpace(name) != name || strings.ContainsFunc(name, unicode.IsControl) {
		return ErrTenantName
	}
	all, err := s.ListTenants(ctx)
	if err != nil {
		return err
	}
	for _, t := range all {
		if t.Name == name {
			return fmt.Errorf("tenant %s has the name %q: %w", t.ID, name, ErrConflict)
		}
	}
	return nil
}

// makeTenant makes a tenant and version 1 of its policy "default", unless it is there.
func makeTenant(ctx context.Context, tx pgx.Tx, t Tenant, actor Actor) (made bool, err error) {
	body, err := json.Marshal(verifier.DefaultPolicy())
	if err != nil {
		return false, fmt.Errorf("default policy: %w", err)
	}
	tag, err := tx.Exec(ctx, `INSERT INTO tenants (tenant_id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, t.ID, t.Name, t.CreatedAt)
	if err != nil || tag.RowsAffected() == 0 {
		return false, wrapped("make tenant", err)
	}
	id := newID(t.CreatedAt)
	if _, err := tx.Exec(ctx, `INSERT INTO policies (tenant_id, policy_id, name, current_version, created_at) VALUES ($1, $2, 'default', 1, $3)`, t.ID, id, t.CreatedAt); err != nil {
		return false, fmt.Errorf("make default policy: %w", err)
	}
	if _, err := tx.Exec(ctx, `INSERT INTO policy_versions (tenant_id, policy_id, version, body, created_by, created_at) VALUES ($1, $2, 1, $3, 'system:', $4)`, t.ID, id, body, t.CreatedAt); err != nil {
		return false, fmt.Errorf("make default policy: %w", err)
	}
	return true, audit(ctx, tx, t.ID, t.CreatedAt, actor, "tenant.create", "tenant:"+t.ID.String(), nil, map[string]any{"name": t.Name})
}

func wrapped(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// EnrollmentTenant finds whose an enrolment is: the agent that activates one has nothing but its id. ErrNotFound.
func (s *Store) EnrollmentTenant(ctx context.Context, enrollment uuid.UUID) (uuid.UUID, error) {
	var tenant pgtype.UUID
	if err := s.pool.QueryRow(beforeTenant(ctx), `SELECT assay_enrollment_tenant($1)`, pgUUID(enrollment)).Scan(&tenant); err != nil {
		return uuid.Nil, fmt.Errorf("look for enrolment %s: %w", enrollment, err)
	}
	if !tenant.Valid {
		return uuid.Nil, notFound(pgx.ErrNoRows, "enrolment", enrollment)
	}
	return tenant.Bytes, nil
}
