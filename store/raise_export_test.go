package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Raise raises alerts in a transaction of its own.
func (s *Store) Raise(ctx context.Context, tenant uuid.UUID, now time.Time, raised ...RaisedAlert) (opened []uuid.UUID, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		opened, err = s.raiseAlerts(ctx, tx, tenant, now, raised)
		return err
	})
	return opened, err
}

// End ends the alerts of machines, and those of scopes, in a transaction of its own.
func (s *Store) End(ctx context.Context, tenant uuid.UUID, now time.Time, code string, machines []uuid.UUID, scopes []string) error {
	ctx = withTenant(ctx, tenant)
	return s.inTx(ctx, func(tx pgx.Tx) error {
		if err := s.endAlerts(ctx, tx, tenant, now, code, machines); err != nil {
			return err
		}
		return s.endScopes(ctx, tx, tenant, now, code, scopes)
	})
}
