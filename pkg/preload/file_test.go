package preload

import (
	"context"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepin-dev/stepin/pkg/wire"
)

// shelf are Files for tests.
type shelf map[string]string

func (f shelf) Stat(_ context.Context, path string, follow bool) (wire.Attr, error) {
	switch path {
	case "/etc/config":
		return wire.Attr{Mode: unix.S_IFDIR | 0o755}, nil
	case "/etc/config/link":
		if !follow {
			return wire.Attr{Mode: unix.S_IFLNK | 0o777}, nil
		}
		path = "/etc/config/colour"
	}
	text, ok := f[path]
	if !ok {
		return wire.Attr{}, syscall.ENOENT
	}
	return wire.Attr{Ino: 7, UID: 8, Mode: unix.S_IFREG | 0o644, Size: uint64(len(text)), Mtime: 1_700_000_000_000_000_005}, nil
}

func (f shelf) ReadLink(context.Context, string) (string, error) { return "colour", nil }

func (f shelf) RealPath(context.Context, string) (string, error) { return "/etc/config", nil }

func (f shelf) ReadDir(context.Context, string) ([]wire.DirEntry, error) {
	return []wire.DirEntry{{Name: "colour", Attr: wire.Attr{Mode: unix.S_IFREG}}, {Name: "link", Attr: wire.Attr{Mode: unix.S_IFLNK}}}, nil
}

func (f shelf) ReadFile(ctx context.Context, path string, limit int64) ([]byte, wire.Attr, error) {
	a, err := f.Stat(ctx, path, true)
	if limit != maxFetched {
		return nil, a, syscall.EFBIG
	}
	return []byte(f[path]), a, err
}

func TestServerFiles(t *testing.T) {
	_, l := greeted(t, &decider{files: shelf{"/etc/config/colour": "green"}})
	var st StatAnswer
	l.ask(KindStat, PathQuestion{}, []byte("/etc/config/link")).must(&st)
	if st.Size != 5 || st.Mode != unix.S_IFREG|0o644 || st.MTime != 1_700_000_000 || st.MTimeNsec != 5 || st.UID != 8 || st.Inode != 7 {
		t.Errorf("%+v", st)
	}
	if l.ask(KindStat, PathQuestion{Flags: PathNoFollow}, []byte("/etc/config/link")).must(&st); st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("%+v", st)
	}
	if got := l.ask(KindLink, PathQuestion{}, []byte("/etc/config/link")).must(nil); string(got) != "colour" {
		t.Errorf("%q", got)
	}
	if got := l.ask(KindLink, PathQuestion{Flags: PathReal}, []byte("/etc/config/../config")).must(nil); string(got) != "/etc/config" {
		t.Errorf("%q", got)
	}
	for _, row := range []struct {
		path  string
		flags uint32
		want  syscall.Errno
		files int
	}{
		{"/etc/config/colour", unix.O_RDONLY | unix.O_CLOEXEC, 0, 1},
		{"/etc/config/missing", unix.O_RDONLY, syscall.ENOENT, 0},
		{"/etc/config/colour", unix.O_RDWR, syscall.EROFS, 0},
		{"/etc/config/colour", unix.O_RDONLY | unix.O_DIRECTORY, syscall.ENOTDIR, 0},
		{"/etc/config/link", unix.O_RDONLY | unix.O_NOFOLLOW, syscall.ELOOP, 0},
		{"/etc/config/missing", unix.O_RDONLY | unix.O_CREAT, syscall.EROFS, 0},
		{"/etc/config/colour", unix.O_RDONLY | unix.O_CREAT, 0, 1},
		{"/etc/config/colour", unix.O_RDONLY | unix.O_CREAT | unix.O_EXCL, syscall.EEXIST, 0},
		{"/etc/config", unix.O_RDONLY, 0, 1},
		{"/etc/config", unix.O_RDWR, syscall.EISDIR, 0},
		{"relative", unix.O_RDONLY, syscall.EPROTO, 0},
	} {
		if no, _, files := l.ask(KindFetch, FetchQuestion{Flags: row.flags}, []byte(row.path)).read(nil); no != row.want || files != row.files {
			t.Errorf("%s with %x: %v, %d descriptors", row.path, row.flags, no, files)
		}
	}
	var list ListAnswer
	if no, _, files := l.ask(KindList, PathQuestion{}, []byte("/etc/config")).read(&list); no != 0 || list.Count != 4 || files != 1 {
		t.Errorf("%v %+v, %d descriptors", no, list, files)
	}
}

func TestTable(t *testing.T) {
	raw, err := Table([]Rule{{Prefix: "/b/", Action: PathHidden}, {Prefix: "/a", Action: PathTranslate, To: "/x/a", WriteError: syscall.EROFS}, {Prefix: "/", Action: PathHost}})
	if err != nil {
		t.Fatal(err)
	}
	var head TableHead
	rest, err := DecodeBody(raw, &head)
	if err != nil || head.Magic != TableMagic || head.Count != 3 || int(head.Size) != len(raw) {
		t.Fatalf("%+v of %d bytes, %v", head, len(raw), err)
	}
	var prefixes []string
	for range head.Count {
		var r TableRule
		if rest, err = DecodeBody(rest, &r); err != nil {
			t.Fatal(err)
		}
		prefixes = append(prefixes, string(raw[r.Prefix:r.Prefix+r.Length]))
		if raw[r.Prefix+r.Length] != 0 {
			t.Error("no NUL")
		}
		if r.Action == PathTranslate && (string(raw[r.To:r.To+r.ToLength]) != "/x/a" || r.WriteError != int32(syscall.EROFS)) {
			t.Errorf("%+v", r)
		}
	}
	if !slices.Equal(prefixes, []string{"", "/a", "/b"}) {
		t.Errorf("%q", prefixes)
	}
	if _, err := Table([]Rule{{Prefix: "/a\x00"}}); err == nil {
		t.Error("a path with NUL")
	}
	if _, err := Table(make([]Rule, maxRules+1)); err == nil {
		t.Error("too many rules")
	}
}
