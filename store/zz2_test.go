package store_test
import ("testing";"os";"fmt";"github.com/jackc/pgx/v5")
func BenchmarkZZ(b *testing.B) {
 _, conn, es := fleet(b, 60)
 q,_ := os.ReadFile("/tmp/w/J/q.sql")
 ctx:=b.Context()
 for _, s := range []string{"SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET plan_cache_mode = force_generic_plan", "PREPARE q(uuid[],uuid[]) AS "+string(q)} {
  if _,err:=conn.Exec(ctx,s); err!=nil { b.Fatal(err)} }
 ms:=""; ts:=""
 for i:=0;i<50;i++ { if i>0 {ms+=",";ts+=","}; ms+=es[i].MachineID.String(); ts+=tenant.String() }
 for k:=0;k<2;k++ {
 rows,err:=conn.Query(ctx, fmt.Sprintf("EXPLAIN (ANALYZE, BUFFERS) EXECUTE q('{%s}','{%s}')",ts,ms), pgx.QueryExecModeSimpleProtocol)
 if err!=nil {b.Fatal(err)}
 for rows.Next() { var l string; rows.Scan(&l); if k==1 {fmt.Println(l)} }
 rows.Close(); if rows.Err()!=nil {b.Fatal(rows.Err())}
 }
}
