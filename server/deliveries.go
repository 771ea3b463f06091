package server

import (
	"context"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

func deliveryDTO(d store.Delivery) openapi.Delivery {
	return openapi.Delivery{ID: d.ID, ChannelID: d.ChannelID, ChannelName: d.ChannelName, EventID: d.EventID, Kind: openapi.NotificationKind(d.EventKind), SubjectID: d.SubjectID,
		State: openapi.DeliveryState(d.State), Attempts: d.Attempts, NextAttemptAt: utcOrNull(d.NextAttemptAt), LastStatusCode: d.LastStatus, LastError: textOrNull(d.LastError),
		CreatedAt: utc(d.CreatedAt), FinishedAt: utcOrNull(d.FinishedAt)}
}

// ListDeliveries lists deliveries, newest first.
func (s *Server) ListDeliveries(ctx context.Context, req openapi.ListDeliveriesRequestObject) (openapi.ListDeliveriesResponseObject, error) {
	f := store.DeliveryFilter{ChannelID: req.Params.Channel, SubjectID: req.Params.Subject, State: text(req.Params.State)}
	items, next, err := s.store.ListDeliveries(ctx, principalOf(ctx).tenant, f, pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListDeliveries200JSONResponse{Items: each(items, deliveryDTO), NextCursor: nextCursor(next)}, nil
}

// GetDelivery answers one with its event and attempts.
func (s *Server) GetDelivery(ctx context.Context, req openapi.GetDeliveryRequestObject) (openapi.GetDeliveryResponseObject, error) {
	d, event, attempts, err := s.store.GetDelivery(ctx, principalOf(ctx).tenant, req.DeliveryID)
	if err != nil {
		return nil, err
	}
	one := deliveryDTO(d)
	return openapi.GetDelivery200JSONResponse{
		ID: one.ID, ChannelID: one.ChannelID, ChannelName: one.ChannelName, EventID: one.EventID, Kind: one.Kind, SubjectID: one.SubjectID, State: one.State, Attempts: one.Attempts,
		NextAttemptAt: one.NextAttemptAt, LastStatusCode: one.LastStatusCode, LastError: one.LastError, CreatedAt: one.CreatedAt, FinishedAt: one.FinishedAt, Event: event,
		AttemptList: each(attempts, func(a store.DeliveryAttempt) openapi.DeliveryAttempt {
			return openapi.DeliveryAttempt{Attempt: a.Attempt, At: utc(a.At), DurationMs: a.Duration.Milliseconds(), StatusCode: a.Status, Error: textOrNull(a.Error)}
		}),
	}, nil
}

// ReplayDelivery delivers one again.
func (s *Server) ReplayDelivery(ctx context.Context, req openapi.ReplayDeliveryRequestObject) (openapi.ReplayDeliveryResponseObject, error) {
	d, err := s.store.ReplayDelivery(ctx, principalOf(ctx).tenant, req.DeliveryID, s.now(), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.ReplayDelivery200JSONResponse(deliveryDTO(d)), nil
}
