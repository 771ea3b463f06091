package reach_test

import (
	"net/netip"
	"testing"

	"github.com/assay-verifier/assay/server/reach"
)

// Whatever an operator allows, the metadata service of no cloud is among it: not by its own address, and not by one that a
// gateway translates.
func TestMetadataServicesAreNeverAsked(t *testing.T) {
	everything := reach.Rules{Private: true, Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}
	for _, text := range []string{
		"169.254.169.254", "169.254.170.2", "::ffff:169.254.169.254", "fe80::a9fe:a9fe", "168.63.129.16", "100.100.100.200",
		"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe",
		"64:ff9b::a9fe:a9fe", "64:ff9b::6464:64c8", "64:ff9b::a83f:8110", // NAT64
		"64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::", "64:ff9b:1:0:a9:fea9:fe00:0", // prefixes of 96, 48, 56 and 64 bits
		"2002:a9fe:a9fe::1", "2002:a83f:8110::", // 6to4
		"2001:0:a9fe:a9fe::", "2001:0:808:808:0:0:5601:5601", // Teredo: its server, and its client inverted
		"::a9fe:a9fe", "fd00::5efe:a9fe:a9fe", "fd00::200:5efe:a9fe:a9fe", // IPv4-compatible, ISATAP
	} {
		if everything.Allow(netip.MustParseAddr(text)) {
			t.Errorf("%s may be asked", text)
		}
	}
	for _, text := range []string{"10.1.2.3", "8.8.8.8", "fd00::1", "fd20:ce::253", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808::1"} {
		if !everything.Allow(netip.MustParseAddr(text)) {
			t.Errorf("%s may not be asked", text)
		}
	}
}
