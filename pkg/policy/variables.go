package policy

// rows is a table of patterns with the reason for each.
type rows []struct {
	why      string
	patterns []string
}

func (r rows) match(name string) (why string, ok bool) {
	for _, row := range r {
		if matchAny(row.patterns, name) {
			return row.why, true
		}
	}
	return "", false
}

// hostLies are variables of the host that would be untrue in the pod: the debuggee does not get them unless the pod
// has its own.
var hostLies = rows{
	{"the developer's proxy is not reached from the pod", []string{"*_PROXY", "*_proxy"}},
	{"the developer's cluster is not the pod's", []string{"KUBECONFIG", "KUBERNETES_*"}},
	{"the developer's cloud account is not the pod's", []string{
		"AWS_*", "GOOGLE_*", "CLOUDSDK_*", "GCLOUD_*", "GCE_*", "AZURE_*", "ARM_*", "MSI_ENDPOINT", "MSI_SECRET", "IDENTITY_ENDPOINT", "IDENTITY_HEADER", "ALIBABA_CLOUD_*",
		"ALICLOUD_*", "OCI_*", "DIGITALOCEAN_*", "VAULT_*", "BOTO_CONFIG",
	}},
	{"the developer's resolver options are not the pod's", []string{"RES_OPTIONS", "LOCALDOMAIN", "HOSTALIASES"}},
	{"the developer's trust store is not the pod's", []string{
		"SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE",
	}},
	{"it would send what the debugger reads to the developer's servers", []string{"DEBUGINFOD_*"}},
}

// hostOwn are variables that describe the machine and the person in front of it; the pod's would point to what is
// not there.
var hostOwn = rows{
	{"it names places on this machine", []string{
		"PATH", "HOME", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "XDG_*", "MAIL", "CDPATH", "MANPATH", "INFOPATH", "TERMINFO", "TERMINFO_DIRS",
	}},
	{"it names the person at this machine", []string{"USER", "LOGNAME", "USERNAME", "SHELL", "SHLVL", "SUDO_*", "_"}},
	{"it describes this terminal or desktop", []string{
		"TERM", "TERM_*", "COLORTERM", "COLUMNS", "LINES", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS",
		"DESKTOP_SESSION", "SESSION_MANAGER", "VSCODE_*", "SSH_*", "GPG_TTY", "GPG_AGENT_INFO", "TMUX", "STY", "WSL_*", "WSLENV",
	}},
	{"it names tools on this machine", []string{
		"GOPATH", "GOROOT", "GOBIN", "GOCACHE", "GOMODCACHE", "GOENV", "GOTMPDIR", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOPRIVATE",
		"GOWORK", "GOTOOLCHAIN", "GOTOOLDIR", "GOCOVERDIR", "CGO_*", "CC", "CXX", "CPP", "AR", "LD", "PKG_CONFIG_*",
		"NVM_*", "NODE_HOME", "NPM_CONFIG_*", "npm_*", "PNPM_HOME", "COREPACK_*", "VOLTA_HOME", "FNM_*",
		"PYENV_*", "VIRTUAL_ENV", "CONDA_*", "PIP_*", "PIPENV_*", "POETRY_*", "UV_CACHE_DIR", "UV_PYTHON*", "UV_TOOL_*", "UV_INDEX*", "UV_PROJECT_ENVIRONMENT", "PYTHONUSERBASE", "PYTHONPYCACHEPREFIX",
		"JAVA_HOME", "JRE_HOME", "JDK_HOME", "CATALINA_HOME", "CATALINA_BASE", "M2_HOME", "MAVEN_HOME", "GRADLE_HOME", "GRADLE_USER_HOME", "KOTLIN_HOME", "SDKMAN_*",
		"CARGO_*", "RUSTUP_*", "RUSTC", "RUSTC_*", "GEM_HOME", "GEM_PATH", "RBENV_*", "BUNDLE_*", "BUNDLER_*",
		"DOTNET_ROOT", "DOTNET_ROOT_*", "NUGET_*", "COMPOSER_HOME", "PHP_INI_DIR", "ASDF_*", "MISE_*", "HOMEBREW_*", "NIX_*", "ANDROID_HOME", "ANDROID_SDK_ROOT",
	}},
	{"it belongs to stepin", []string{"STEPIN_*"}},
}

// podCode are variables with which a loader, an interpreter or a tool runs code or looks for it elsewhere. A pod must
// not run code on the developer's machine, so they never come from it unless env.include names them. GOMEMLIMIT, GOGC,
// GOMAXPROCS, GODEBUG and GOTRACEBACK are not here: they tune a Go program as the pod's is tuned, and run nothing.
var podCode = rows{
	{"the dynamic loader would run it", []string{"LD_*", "DYLD_*", "GLIBC_TUNABLES", "MALLOC_TRACE"}},
	{"the C library would load or read it", []string{"GCONV_PATH", "LOCPATH", "NLSPATH", "TZDIR", "GETCONF_DIR"}},
	{"Python would run it", []string{"PYTHONSTARTUP", "PYTHONPATH", "PYTHONHOME", "PYTHONINSPECT", "PYTHONBREAKPOINT", "PYTHONWARNINGS", "PYTHONPLATLIBDIR", "PYTHONEXECUTABLE", "PYTHONCASEOK"}},
	{"Node would run it", []string{"NODE_OPTIONS", "NODE_PATH", "NODE_REPL_*", "NODE_V8_COVERAGE", "ELECTRON_RUN_AS_NODE", "DENO_DIR", "BUN_OPTIONS", "BUN_INSPECT*"}},
	{"Java would run it", []string{"JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "JAVA_OPTS", "JAVA_OPTIONS", "CLASSPATH", "CATALINA_OPTS", "MAVEN_OPTS", "MAVEN_ARGS", "GRADLE_OPTS", "SBT_OPTS"}},
	{".NET would run it", []string{"DOTNET_STARTUP_HOOKS", "DOTNET_ADDITIONAL_DEPS", "DOTNET_SHARED_STORE", "DOTNET_DiagnosticPorts", "CORECLR_*", "COR_PROFILER*", "COR_ENABLE_PROFILING"}},
	{"Perl would run it", []string{"PERL5LIB", "PERL5OPT", "PERL5DB", "PERLLIB", "PERL5SHELL", "PERL_MM_OPT", "PERL_MB_OPT", "PERL_LOCAL_LIB_ROOT"}},
	{"Ruby would run it", []string{"RUBYOPT", "RUBYLIB", "RUBYSHELL", "RUBYPATH"}},
	{"PHP or Lua would run it", []string{"PHPRC", "PHP_INI_SCAN_DIR", "LUA_INIT", "LUA_INIT_*", "LUA_PATH", "LUA_PATH_*", "LUA_CPATH", "LUA_CPATH_*"}},
	{"a shell would run it", []string{"BASH_ENV", "ENV", "PROMPT_COMMAND", "BASH_FUNC_*", "SHELLOPTS", "BASHOPTS", "BASH_XTRACEFD", "PS0", "PS1", "PS2", "PS4", "IFS", "ZDOTDIR", "FPATH", "GLOBIGNORE"}},
	{"the go command would run it", []string{"GOFLAGS", "GOAUTH", "GCCGO", "GOVCS", "GOEXPERIMENT", "GOCACHEPROG"}},
	{"git would run it", []string{
		// Not GIT_*: GIT_COMMIT and its like are what images say about themselves.
		"GIT_SSH*", "GIT_ASKPASS", "GIT_EDITOR", "GIT_SEQUENCE_EDITOR", "GIT_PAGER", "GIT_EXEC_PATH", "GIT_EXTERNAL_DIFF", "GIT_PROXY_COMMAND",
		"GIT_CONFIG*", "GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_TEMPLATE_DIR", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_*",
		"GIT_INDEX_FILE", "GIT_NAMESPACE", "GIT_ATTR_*", "GIT_TRACE*", "GIT_ALLOW_PROTOCOL", "GIT_CREDENTIAL*", "GIT_SSL_*", "GIT_TERMINAL_PROMPT",
		"GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_*", "GIT_REDIRECT_*", "GIT_PROTOCOL*", "GIT_HTTP_*",
	}},
	{"a program would start it", []string{"EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "LESSOPEN", "LESSCLOSE", "LESS", "SYSTEMD_PAGER", "DELVE_EDITOR", "FCEDIT", "TEXEDIT", "MAILER"}},
	{"OpenSSL would load it", []string{"OPENSSL_CONF", "OPENSSL_CONF_INCLUDE", "OPENSSL_ENGINES", "OPENSSL_MODULES"}},
	{"a compiler would run it", []string{"RUSTFLAGS", "RUSTDOCFLAGS", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "COMPILER_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "MAKEFLAGS", "MAKEFILES", "MFLAGS"}},
	{"a debugger would reach out with it", []string{"DEBUGINFOD_*"}},
	{"a graphics or font library would load it", []string{"GTK_MODULES", "GTK_PATH", "GIO_MODULE_DIR", "GIO_EXTRA_MODULES", "GIO_LAUNCH_DESKTOP", "QT_PLUGIN_PATH", "QT_QPA_PLATFORM_PLUGIN_PATH", "GST_PLUGIN_*", "VK_LAYER_PATH", "VK_ADD_LAYER_PATH", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES", "VK_DRIVER_FILES", "VK_INSTANCE_LAYERS", "OCL_ICD_*"}},
}

// debuggerStray are variables of the host that a real debugger must not have.
var debuggerStray = rows{
	{"it would ask servers of the developer's for symbols", []string{"DEBUGINFOD_*"}},
}
