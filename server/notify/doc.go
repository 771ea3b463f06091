// Package notify tells others what happened: at least once, in order for each alert, and without ever holding up an
// attestation.
//
//	change     store: ONE transaction writes the change, its event (table outbox) and, by a trigger, a River job
//	fan-out    FanOut: events -> documents -> filters of the channels -> deliveries, one job for each channel with some
//	delivery   Deliver: claim a few that are due -> send each, 15 s at most -> record the attempt, and when the next one is
//	sweep      every few seconds: what is due and what no job was made for, whatever was lost
//
// What survives a crash: everything that is committed. Killed before the fan-out's commit, the sweep fans out again. Killed
// between sending and recording, the claim runs out and the delivery is made again with the same id, by which a
// receiver knows it. River's tables only wake workers up; who lost them lost time and no delivery.
//
// # Order
//
// Of the events of one subject (an alert) a channel is sent one at a time, the earliest first; a later one waits until
// the earlier is delivered or dead. Events of different subjects have no order. A dead delivery that is replayed comes after
// what was delivered meanwhile.
//
// # Content
//
// What receivers are told is made once, at the fan-out, and kept (outbox.document), so that all retries, channels and
// formats say the same. Status, severity and reason are those of the moment of the change, which the event's row
// holds; titles, counts and what describes the machine are read at the fan-out, moments later. So the commit of
// an appraisal writes a few ids and no more.
//
// # One receiver does not harm another
//
// At most perChannel deliveries of a channel are under way over all replicas, one while it keeps failing. A tenant has
// fewer channels than a replica has workers. Nothing holds more than one page of events or a few deliveries in memory.
package notify
