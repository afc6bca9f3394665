package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

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
	cmd.AddCommand(checkCommand(), showCommand(), importCommand(), &cobra.Command{
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

const whatIsRead = "FILE is a launch.json, of which the configurations of type stepin and those with a block \"stepin\" count, one launch\n" +
	"configuration, or a stepin.yaml. Of a folder, by default this one, it is .vscode/launch.json, and the stepin.yaml in it\n" +
	"or above it."

func checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check [FILE|FOLDER]",
		Short:   "Say all that is wrong with launch configurations and stepin.yaml",
		Long:    "Say all that is wrong with launch configurations and stepin.yaml, each with file, line and column.\n" + whatIsRead,
		Example: "  stepin config check\n  stepin config check .vscode/launch.json",
		Args:    atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := configurations(args)
			if err != nil {
				return err
			}
			var problems wrong
			for _, c := range all {
				if c.err != nil {
					problems = problems.with(c.err)
				} else {
					fmt.Fprintln(cmd.OutOrStdout(), printable(c.String()+": good"+c.note()))
				}
			}
			if len(problems) > 0 {
				return problems
			}
			return nil
		},
	}
}

func showCommand() *cobra.Command {
	var output, name string
	cmd := &cobra.Command{
		Use:   "show [FILE|FOLDER]",
		Short: "Show what is in force: configuration, stepin.yaml and defaults, and where each value comes from",
		Long: "Show what is in force: configuration, stepin.yaml and defaults, and where each value comes from. Values of variables\n" +
			"are not shown.\n" + whatIsRead,
		Example: "  stepin config show\n  stepin config show .vscode/launch.json --name orders -o json",
		Args:    atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "table" && output != "json" {
				return fail.New(fail.ConfigValue, "-o table or -o json", "-o %q does not exist", output)
			}
			all, err := configurations(args)
			if err != nil {
				return err
			}
			if all, err = called(all, name); err != nil {
				return err
			}
			if output == "json" && len(all) > 1 {
				return fail.New(fail.ConfigValue, "choose one by --name", "there are %d configurations", len(all))
			}
			for i, c := range all {
				switch {
				case c.err != nil:
					err = c.err
				case output == "json":
					err = printJSON(cmd, c.launch.WithoutValues())
				default:
					err = printValues(cmd, c, i > 0)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	cmd.Flags().StringVar(&name, "name", "", "the configuration of that name only")
	return cmd
}

func importCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Make a stepin.yaml of a mirrord.json, and name what has no counterpart",
		Long: "Make a stepin.yaml of a mirrord.json (or .yaml), on standard output. Each key that has no counterpart, or means something\n" +
			"else here, is named on standard error.",
		Example: "  stepin config import .mirrord/mirrord.json > stepin.yaml",
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readFile(args[0])
			if err != nil {
				return err
			}
			out, left, err := config.FromMirrord(args[0], data)
			fmt.Fprint(cmd.OutOrStdout(), string(out))
			for _, line := range left {
				fmt.Fprintln(cmd.ErrOrStderr(), "stepin: "+printable(line))
			}
			return err
		},
	}
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return exactly(1)(cmd, args)
	}
	return nil
}

// wrong are the errors of several configurations, each once: they may share a stepin.yaml.
type wrong []error

// Error joins the sentences.
func (w wrong) Error() string { return errors.Join(w...).Error() }

// with adds what err consists of.
func (w wrong) with(err error) wrong {
	for _, e := range each(err) {
		if !slices.ContainsFunc(w, func(other error) bool { return other.Error() == e.Error() }) {
			w = append(w, e)
		}
	}
	return w
}

// configuration is one that was found, with the stepin.yaml below it, or what is wrong with it.
type configuration struct {
	written *config.Written // nil: the stepin.yaml alone
	file    string          // as it was named
	yaml    *config.File
	launch  *config.Launch
	err     error
}

func (c configuration) String() string {
	if c.written != nil && c.written.Debugs {
		return fmt.Sprintf("%s:%d: %s", c.file, c.written.Line, c.written.Name)
	}
	return c.file
}

// note says what a reader may not expect.
func (c configuration) note() string {
	var words []string
	if c.written != nil && c.yaml != nil {
		words = append(words, "over "+c.yaml.Path)
	}
	switch target := c.launch.Target; {
	case c.written == nil || target != "" && target != "pick":
	case c.written.Debugs:
		words = append(words, "VS Code asks for the target at each start")
	case target == "":
		words = append(words, "it names no target")
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, "; ") + ")"
}

// configurations reads what the arguments name: at least one, or an error.
func configurations(args []string) ([]configuration, error) {
	path := "."
	if len(args) > 0 {
		path = args[0]
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return inFolder(path)
	case isYAML(path):
		f, err := readYAML(path)
		if err != nil {
			return nil, err
		}
		return []configuration{alone(path, f)}, nil
	}
	all, err := inFile(path)
	if err == nil && len(all) == 0 {
		err = fail.New(fail.ConfigValue, `"type": "stepin" in a configuration, or a block "stepin" in one of another type`,
			"%s has no configuration of stepin's", path)
	}
	return all, err
}

func inFolder(dir string) ([]configuration, error) {
	var all []configuration
	path := filepath.Join(dir, ".vscode", "launch.json")
	if _, err := os.Stat(path); err == nil {
		if all, err = inFile(path); err != nil {
			return nil, err
		}
	}
	file, err := config.Load(dir)
	switch {
	case err != nil && len(all) == 0:
		return nil, err
	case file != nil && len(all) == 0:
		all = append(all, alone(file.Path, file))
	case len(all) == 0:
		return nil, fail.New(fail.ConfigSyntax, `"target: deployment/orders" is a whole stepin.yaml; docs/configuration.md has every key`,
			"neither %s nor a %s there or above has a configuration of stepin's", path, config.Name)
	}
	return all, nil
}

// alone is a stepin.yaml by itself.
func alone(name string, f *config.File) configuration {
	l, err := f.Launch()
	return configuration{file: name, yaml: f, launch: l, err: err}
}

// inFile reads a launch.json or one launch configuration, each over the stepin.yaml found upwards from its program.
func inFile(path string) ([]configuration, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	found, err := config.ParseLaunch(path, data)
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fail.Wrap(fail.Internal, err, "start it in an existing directory", "the working directory is gone")
	}
	folder := strings.TrimSuffix(filepath.Dir(abs), string(filepath.Separator)+".vscode")
	var all []configuration
	for _, w := range found {
		c := configuration{written: w, file: path}
		start := strings.ReplaceAll(w.Program(), "${workspaceFolder}", folder)
		if strings.Contains(start, "${") {
			start = "" // the editor knows more
		}
		if c.yaml, c.err = config.Load(within(folder, start)); c.err == nil {
			c.launch, c.err = w.Launch(c.yaml)
		}
		all = append(all, c)
	}
	return all, nil
}

// called returns the configurations of that name, or all.
func called(all []configuration, name string) ([]configuration, error) {
	if name == "" {
		return all, nil
	}
	var names []string
	for _, c := range all {
		if c.written != nil && c.written.Name == name {
			return []configuration{c}, nil
		}
		if c.written != nil {
			names = append(names, c.written.Name)
		}
	}
	return nil, fail.New(fail.ConfigValue, "the names are "+strings.Join(names, ", "), "no configuration is named %q", name)
}

func printValues(cmd *cobra.Command, c configuration, more bool) error {
	out := cmd.OutOrStdout()
	if more {
		fmt.Fprintln(out)
	}
	fmt.Fprintln(out, printable(c.String()+c.note()))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, v := range c.launch.Values() {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", printable(v.Key), printable(v.Text), printable(v.From))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("cli: printing: %w", err)
	}
	return nil
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
