// Package limit holds back what would take more than its share of a service: how often somebody asks (Buckets), how much of
// theirs is in work at once (Shares), how much of one kind is in work and waits (Gate), and how many connections are open
// and from where (Listener). It knows nothing of what is asked. All of it has bounded memory, whatever comes.
package limit
