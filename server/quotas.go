package server

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

// quotaExceeded is the refusal of what would exceed a quota.
func quotaExceeded(q *store.QuotaError) *requestError {
	e := refuse(codeQuotaExceeded, fmt.Sprintf("the tenant may have %d %s and has %d", q.Limit, q.Kind, q.Used))
	e.quota = &quotaProblem{Kind: string(q.Kind), Limit: q.Limit, Used: q.Used}
	if !q.Until.IsZero() {
		e = e.with("Retry-After", strconv.Itoa(max(int(time.Until(q.Until)/time.Second)+1, 1)))
	}
	return e
}

// GetQuotas tells how the tenant stands.
func (s *Server) GetQuotas(ctx context.Context, _ openapi.GetQuotasRequestObject) (openapi.GetQuotasResponseObject, error) {
	list, err := s.store.Quotas(ctx, principalOf(ctx).tenant, s.now())
	if err != nil {
		return nil, err
	}
	return openapi.GetQuotas200JSONResponse{Quotas: each(list, func(q store.Quota) openapi.Quota {
		out := openapi.Quota{Kind: openapi.QuotaKind(q.Kind), Used: q.Used, Own: q.Own}
		if q.Limit != store.Unlimited {
			out.Limit = &q.Limit
		}
		return out
	})}, nil
}
