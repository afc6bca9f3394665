package config

import "errors"

var errTodo = errors.New("config: not written yet")

// File is one stepin.yaml.
type File struct {
	Path string // where it was found
}

// Load finds stepin.yaml in start (a file or a directory, it need not exist) or above it. Nil without an error: none.
func Load(start string) (*File, error) { return nil, errTodo }

// Parse reads and checks launch.json's arguments alone.
func Parse(launch []byte) (*Launch, error) { return Merge(nil, launch) }

// Merge puts launch.json's arguments over file (may be nil), key by key, and checks the result.
func Merge(file *File, launch []byte) (*Launch, error) { return nil, errTodo }

// ParseEnvFile reads env.file.
func ParseEnvFile(data []byte) (map[string]string, error) { return nil, errTodo }

// Schema returns the JSON schema of Launch.
func Schema() ([]byte, error) { return nil, errTodo }

// Target is what the user wrote as target.
type Target struct {
	PID int // local/PID
}

// ParseTarget reads "local/PID".
func ParseTarget(s string) (Target, error) { return Target{}, errTodo }
