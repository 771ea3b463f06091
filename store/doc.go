// Package store is the service's memory: everything that Assay knows is in Postgres, and every statement is
// in the function that needs it.
//
// One exported method is one visible transaction. The tenant is always a parameter, and so is the time: the
// package reads no clock. What a method changes is recorded in audit_events in the same transaction.
//
// Two methods make up the appraisal of evidence. AppraisalInputs reads one snapshot in one round trip;
// configuration (policies, baselines of the fleet, suppression rules) comes from memory and is loaded again
// when the tenant's generation, read in that snapshot, has moved. RecordAppraisal writes: calls that come
// at the same time share a commit, and return when it is on disk. An unchanged judgement costs one small
// update of the machine's row; only a change of judgement writes a verdict, its evidence and findings.
//
// After a crash at any point every answered call is there, and nothing is there by half: the database holds
// whole transactions only, and the store keeps nothing in memory that it could not read again.
package store
