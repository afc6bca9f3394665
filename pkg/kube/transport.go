package kube

import (
	"context"
	"net/http"
)

// retrying is around client-go's whole chain of round trippers where an exec plugin is part of it. client-go runs the
// plugin with the lock held and no context, and answers a token that has expired by a new one for the next request and
// the 401 for this: so this one returns when its context ends, and asks once more after a 401.
//
// Goroutines: one per request, which ends with it.
type retrying struct {
	base   http.RoundTripper
	plugin *plugin
}

// RoundTrip is http.RoundTripper's.
func (r retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.once(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || req.Body != nil && req.GetBody == nil {
		return resp, err
	}
	_ = resp.Body.Close()
	again := req.Clone(req.Context())
	if req.Body != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return r.once(again)
}

func (r retrying) once(req *http.Request) (*http.Response, error) {
	type result struct {
		resp *http.Response
		err  error
	}
	done := make(chan result, 1)
	go func() {
		resp, err := r.base.RoundTrip(req.Clone(req.Context())) // a clone: what client-go adds is for this try alone
		done <- result{resp, err}
	}()
	select {
	case got := <-done:
		if got.err == nil {
			r.plugin.worked.Store(true)
		}
		return got.resp, got.err
	case <-req.Context().Done():
		go func() {
			if late := <-done; late.resp != nil {
				_ = late.resp.Body.Close()
			}
		}()
		return nil, context.Cause(req.Context())
	}
}
