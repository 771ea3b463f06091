package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// maxRoleBindings bounds those of a tenant: all of a provider are read at each call of a person.
const maxRoleBindings = 1000

// RoleBinding gives a role to people of an identity provider. Whom its body is about is server/auth's business.
type RoleBinding struct {
	ID         uuid.UUID
	ProviderID uuid.UUID
	Name       string
	Role       Role
	Scope      Scope // nil for the whole tenant
	Body       json.RawMessage
	CreatedAt  time.Time
	CreatedBy  string
	UpdatedAt  time.Time
}

const roleBindingColumns = `binding_id, provider_id, name, role, scope, body, created_at, created_by, updated_at`

func scanRoleBinding(row pgx.Row) (RoleBinding, error) {
	var b RoleBinding
	err := row.Scan(&b.ID, &b.ProviderID, &b.Name, &b.Role, &b.Scope, &b.Body, &b.CreatedAt, &b.CreatedBy, &b.UpdatedAt)
	return b, err
}

func (b *RoleBinding) summary() map[string]any {
	return map[string]any{"name": b.Name, "provider_id": b.ProviderID, "role": b.Role, "scope": b.Scope, "who": b.Body}
}

func roleBindingTarget(id uuid.UUID) string { return "role_binding:" + id.String() }

// roleBindingConflict names what stands against a binding.
func roleBindingConflict(err error) error {
	switch {
	case isViolation(err, "role_bindings_name"):
		return fmt.Errorf("a role binding has this name: %w", ErrConflict)
	case isViolation(err, "role_bindings_tenant_id_provider_id_fkey"):
		return fmt.Errorf("the identity provider: %w", ErrNotFound)
	}
	return err
}

// CreateRoleBinding stores a binding; the id, and who and when, are filled in. ErrNotFound: there is no such provider.
// ErrConflict: the name is taken, or there are too many.
func (s *Store) CreateRoleBinding(ctx context.Context, tenant uuid.UUID, b RoleBinding, now time.Time, actor Actor) (RoleBinding, error) {
	ctx = withTenant(ctx, tenant)
	now = now.Truncate(time.Microsecond) // as Postgres keeps it
	b.ID, b.CreatedAt, b.UpdatedAt, b.CreatedBy = newID(now), now, now, actor.String()
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil {
			return err
		}
		if err := tooMany(ctx, tx, tenant, "role_bindings", maxRoleBindings); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO role_bindings (tenant_id, binding_id, provider_id, name, role, scope, body, created_by, created_at, updated_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)`, tenant, b.ID, b.ProviderID, b.Name, string(b.Role), b.Scope, b.Body, b.CreatedBy, now); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "role_binding.create", roleBindingTarget(b.ID), nil, b.summary())
	})
	if err != nil {
		return RoleBinding{}, fmt.Errorf("make role binding: %w", roleBindingConflict(err))
	}
	return b, nil
}

// UpdateRoleBinding replaces a binding. ErrNotFound: there is no such binding or provider. ErrConflict: the name is taken.
func (s *Store) UpdateRoleBinding(ctx context.Context, tenant uuid.UUID, b RoleBinding, now time.Time, actor Actor) (RoleBinding, error) {
	ctx = withTenant(ctx, tenant)
	now = now.Truncate(time.Microsecond)
	err := s.changeRoleBinding(ctx, tenant, b.ID, func(tx pgx.Tx, was RoleBinding) error {
		b.CreatedAt, b.CreatedBy, b.UpdatedAt = was.CreatedAt, was.CreatedBy, now
		if _, err := tx.Exec(ctx, `UPDATE role_bindings SET provider_id = $3, name = $4, role = $5, scope = $6, body = $7, updated_at = $8 WHERE tenant_id = $1 AND binding_id = $2`,
			tenant, b.ID, b.ProviderID, b.Name, string(b.Role), b.Scope, b.Body, now); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "role_binding.update", roleBindingTarget(b.ID), was.summary(), b.summary())
	})
	if err != nil {
		return RoleBinding{}, fmt.Errorf("change role binding %s: %w", b.ID, roleBindingConflict(err))
	}
	return b, nil
}

// DeleteRoleBinding takes a binding away. ErrNotFound.
func (s *Store) DeleteRoleBinding(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	err := s.changeRoleBinding(ctx, tenant, id, func(tx pgx.Tx, was RoleBinding) error {
		if _, err := tx.Exec(ctx, `DELETE FROM role_bindings WHERE tenant_id = $1 AND binding_id = $2`, tenant, id); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "role_binding.delete", roleBindingTarget(id), was.summary(), nil)
	})
	if err != nil {
		return fmt.Errorf("delete role binding %s: %w", id, err)
	}
	return nil
}

// changeRoleBinding locks a binding and hands it to f.
func (s *Store) changeRoleBinding(ctx context.Context, tenant, id uuid.UUID, f func(pgx.Tx, RoleBinding) error) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		was, err := readRoleBinding(ctx, tx, tenant, id, " FOR UPDATE")
		if err != nil {
			return err
		}
		return f(tx, was)
	})
}

func readRoleBinding(ctx context.Context, db querier, tenant, id uuid.UUID, lock string) (RoleBinding, error) {
	rows, _ := db.Query(ctx, `SELECT `+roleBindingColumns+` FROM role_bindings WHERE tenant_id = $1 AND binding_id = $2`+lock, tenant, id)
	b, err := pgx.CollectExactlyOneRow(rows, collected(scanRoleBinding))
	if err != nil {
		return RoleBinding{}, notFound(err, "role binding", id)
	}
	return b, nil
}

// GetRoleBinding reads one. ErrNotFound.
func (s *Store) GetRoleBinding(ctx context.Context, tenant, id uuid.UUID) (RoleBinding, error) {
	ctx = withTenant(ctx, tenant)
	return readRoleBinding(ctx, s.pool, tenant, id, "")
}

// RoleBindingFilter narrows ListRoleBindings.
type RoleBindingFilter struct {
	NamePrefix string
	ProviderID *uuid.UUID
}

var roleBindingList = listing[RoleBinding]{
	name: "role_bindings", columns: roleBindingColumns, scan: scanRoleBinding, initial: "-id",
	sorts: map[string][]sortKey{"id": ids("binding_id"), "name": byText(named("name"), ids("binding_id")...)},
}

// ListRoleBindings lists bindings, newest first.
func (s *Store) ListRoleBindings(ctx context.Context, tenant uuid.UUID, f RoleBindingFilter, page Page) (items []RoleBinding, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM role_bindings WHERE tenant_id = $1", tenant)
	q.prefix("name", f.NamePrefix)
	q.id("provider_id = ?", f.ProviderID)
	return roleBindingList.page(ctx, s.pool, q, page)
}

// RoleBindingsOf reads all bindings about a provider's identities, oldest first.
func (s *Store) RoleBindingsOf(ctx context.Context, tenant, providerID uuid.UUID) ([]RoleBinding, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT `+roleBindingColumns+` FROM role_bindings WHERE tenant_id = $1 AND provider_id = $2 ORDER BY binding_id`, tenant, providerID)
	all, err := pgx.CollectRows(rows, collected(scanRoleBinding))
	if err != nil {
		return nil, fmt.Errorf("read the role bindings of identity provider %s: %w", providerID, err)
	}
	return all, nil
}
