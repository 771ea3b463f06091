// Package server is the HTTP layer of the service: routes, authentication, request checks, problem
// documents, telemetry and shutdown. It judges nothing and stores nothing by itself; each handler
// turns a request into one call of server/attest or store, and the result into the contract's shape.
//
// # The life of a request
//
//	telemetry   request id, trace, access log, metrics, recovery from a panic        telemetry.go
//	route       chi; every operation of openapi.yaml has one line in routes.go, with its permission and scope
//	guard       1 who calls (bearer token), with a permission, where       401 403 404   principal.go permissions.go guard.go
//	            2 path, query and header parameters                400       parameters.go
//	            3 a machine speaks for itself only                 403       guard.go
//	            4 the body: encoding, type, size, then its schema  413 415 503 400  body.go bodycheck.go
//	            5 Idempotency-Key: go ahead, or the stored answer  409       idempotency.go
//	handler     DTO to domain, one use case, domain to DTO
//	fail        any error to a problem document by one table                         problem.go
//
// Nothing is stored before the guard is through. Evidence, raw event logs and enrolments have decoders of
// their own (verifier.Decode, attest.ParseEnrolRequest), which are strict and bounded; every other body
// is checked against the contract's schema.
//
// # Memory
//
// The bytes of all bodies being read or worked on are bounded together (Config.BodyBudget); a request
// beyond is answered 503 with Retry-After before its body is read.
package server
