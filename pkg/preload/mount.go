package preload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unmounter is the setuid program by which an ordinary user mounts FUSE (fusermount3(1)).
const unmounter = "fusermount3"

// mountTime bounds fusermount3, which asks nobody.
const mountTime = 10 * time.Second

// Mount mounts FUSE at a directory: by mount(2) where this user may, else by fusermount3. It returns the descriptor to serve,
// which is the caller's. device is "" or another node than /dev/fuse.
func Mount(at, device string) (*os.File, error) {
	if device != "" { // which fusermount3 knows nothing of
		return mountSelf(at, device)
	}
	f, err := mountSelf(at, "/dev/fuse")
	if err == nil {
		return f, nil
	}
	f, again := mountByHelper(at)
	if again == nil {
		return f, nil
	}
	return nil, fmt.Errorf("preload: mounting FUSE: %w; %w", err, again)
}

func mountSelf(at, device string) (*os.File, error) {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open(%s): %w", device, err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, os.Getuid(), os.Getgid())
	if err := unix.Mount("stepin", at, "fuse.stepin", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mount(fuse): %w", err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// mountByHelper has fusermount3 mount, which sends the descriptor through a socket (its own protocol, _FUSE_COMMFD).
func mountByHelper(at string) (*os.File, error) {
	helper, err := exec.LookPath(unmounter)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fuse"), os.NewFile(uintptr(pair[1]), "fuse")
	defer ours.Close()
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(context.Background(), mountTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, helper, "-o", "nosuid,nodev,fsname=stepin,subtype=stepin", "--", at)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = []string{"_FUSE_COMMFD=3", "PATH=/usr/bin:/bin"}, "/", []*os.File{theirs}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", unmounter, err, strings.TrimSpace(said.String()))
	}
	c, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(mountTime))
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(fmt.Errorf("%s sent no descriptor", unmounter), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(fmt.Errorf("%s sent no descriptor", unmounter), err)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "/dev/fuse"), nil
}

// unmount takes the mount away at once; who still uses it reads ENOTCONN.
func unmount(at string) error {
	if unix.Unmount(at, unix.MNT_DETACH) == nil {
		return nil
	}
	helper, err := exec.LookPath(unmounter)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), mountTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, helper, "-u", "-z", "--", at)
	cmd.Dir = "/"
	return cmd.Run()
}
