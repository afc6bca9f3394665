package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/stepin-dev/stepin/pkg/config"
	"github.com/stepin-dev/stepin/pkg/fail"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check and show configurations",
		Args:  onlyCommands,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "Say what is wrong with a launch configuration (JSON) or a stepin.yaml",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := read(args[0])
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), args[0]+": good")
			}
			return err
		},
	}, &cobra.Command{
		Use:   "show FILE",
		Short: "Show a configuration with all its defaults",
		Args:  exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := read(args[0])
			if err != nil {
				return err
			}
			return printJSON(cmd, l)
		},
	}, &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of launch configurations and stepin.yaml",
		Args:  exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := config.Schema()
			if err == nil {
				_, err = cmd.OutOrStdout().Write(b)
			}
			return err
		},
	})
	return cmd
}

func printJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("cli: printing: %w", err)
	}
	return nil
}

// read reads one file: YAML stands alone, JSON is over the stepin.yaml found upwards from it.
func read(path string) (*config.Launch, error) {
	if isYAML(path) {
		f, err := readYAML(path)
		if err != nil {
			return nil, err
		}
		return config.Merge(f, []byte("{}"))
	}
	raw, err := readFile(path)
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, "", "%s", path)
	}
	f, err := config.Load(abs)
	if err != nil {
		return nil, err
	}
	return config.Merge(f, raw)
}

func isYAML(path string) bool {
	ext := filepath.Ext(path)
	return ext == ".yaml" || ext == ".yml"
}

func readYAML(path string) (*config.File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fail.Wrap(fail.ConfigValue, err, "", "%s", path)
	}
	data, err := readFile(abs)
	if err != nil {
		return nil, err
	}
	return config.ParseYAML(abs, data)
}

// maxConfig bounds a configuration's file in bytes: a thousand times what anybody writes.
const maxConfig = 1 << 20

func readFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fail.Wrap(fail.ConfigSyntax, err, "", "the configuration cannot be read")
	}
	if len(data) > maxConfig {
		return nil, fail.New(fail.ConfigSyntax, "", "%s is larger than %d bytes", path, maxConfig)
	}
	return data, nil
}
