package namespaces

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// guardName is in Plan.Dir, too.
const guardName = "guard"

// Guard removes a session's directory when the session dies before Start has made a keeper of its own: what comes
// first, an agent and a build, takes seconds. It is a keeper that has nobody to kill.
type Guard struct {
	keeper *keeper
	file   string
	once   sync.Once
}

// NewGuard starts it. Image is the keeper's executable.
func NewGuard(dir string, image []byte) (*Guard, error) {
	file := filepath.Join(dir, guardName)
	if err := writeProgram(file, image); err != nil {
		return nil, err
	}
	k, err := startKeeper(file, dir, nil)
	if err != nil {
		os.Remove(file)
		return nil, fmt.Errorf("namespaces: guarding the session's directory: %w", err)
	}
	k.theirs.Close() // there is no holder to wait for
	k.theirs = nil
	return &Guard{keeper: k, file: file}, nil
}

// Dismiss ends it and leaves the directory to whoever has it now. Nil has nothing to end; again, it does nothing.
func (g *Guard) Dismiss() {
	if g == nil {
		return
	}
	g.once.Do(func() {
		g.keeper.cmd.Process.Kill() // before its pipe ends, which is its sign to remove everything
		g.keeper.cmd.Wait()
		g.keeper.ours.Close()
		os.Remove(g.file)
	})
}
