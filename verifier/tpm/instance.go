package tpm

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Instance is the identity of a virtual machine that Google's CA writes into the certificate of its AK.
type Instance struct {
	Zone          string `json:"zone"`
	ProjectID     string `json:"project_id"`
	ProjectNumber uint64 `json:"project_number"`
	Name          string `json:"instance_name"`
	ID            uint64 `json:"instance_id"`

	production bool
}

// ResourceName is the instance's full resource name. It names the instance by its id, since a name can be given
// again once its instance is gone.
func (i *Instance) ResourceName() string {
	return fmt.Sprintf("//compute.googleapis.com/projects/%d/zones/%s/instances/%d", i.ProjectNumber, i.Zone, i.ID)
}

// oidGCEInstance is Google's cloudComputeInstanceIdentifier (google/go-tpm-tools, server package).
var oidGCEInstance = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 21}

// InstanceOf reads the instance identity of an AK certificate; nil where it has none. It is proven as far as the
// certificate's chain is: verify that first. One that is not of Google's production environment proves nothing and
// is nil, too. An extension that cannot be read, or stands there twice, is an error.
func InstanceOf(cert *x509.Certificate) (*Instance, error) {
	var found *Instance
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidGCEInstance) {
			continue
		}
		if found != nil {
			return nil, errors.New("the certificate names two instances")
		}
		i, err := parseInstance(ext.Value)
		if err != nil {
			return nil, fmt.Errorf("the certificate's instance identity: %w", err)
		}
		found = i
	}
	if found != nil && !found.production {
		return nil, nil
	}
	return found, nil
}

func parseInstance(der []byte) (*Instance, error) {
	var w struct {
		Zone          string `asn1:"utf8"`
		ProjectNumber *big.Int
		ProjectID     string `asn1:"utf8"`
		ID            *big.Int
		Name          string `asn1:"utf8"`
		Security      struct {
			Version    int64 `asn1:"explicit,tag:0,optional"`
			Production bool  `asn1:"explicit,tag:1,optional"`
		} `asn1:"explicit,optional"`
	}
	rest, err := asn1.Unmarshal(der, &w)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("something follows it")
	}
	if !w.ProjectNumber.IsUint64() || !w.ID.IsUint64() {
		return nil, errors.New("a number is out of range")
	}
	for _, text := range []string{w.Zone, w.ProjectID, w.Name} {
		if len(text) > 253 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
			return nil, errors.New("a name has characters that no name of an instance has")
		}
	}
	return &Instance{production: w.Security.Production, Zone: w.Zone, ProjectID: w.ProjectID, ProjectNumber: w.ProjectNumber.Uint64(), Name: w.Name, ID: w.ID.Uint64()}, nil
}
