package kube

import (
	"context"
	"errors"

	"github.com/stepin-dev/stepin/pkg/config"
)

// Resolve finds a target's pods.
func (c *Cluster) Resolve(ctx context.Context, t config.Target) (*Workload, error) {
	return nil, errors.ErrUnsupported
}
