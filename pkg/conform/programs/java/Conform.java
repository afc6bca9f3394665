import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.channels.SocketChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.TreeSet;
import java.util.concurrent.Callable;

/** The conformance program in Java: what the virtual machine makes of libc's calls. Lines "what: result". */
public class Conform {
    static void attempt(String what, Callable<Object> call) {
        Object result;
        try {
            result = call.call();
        } catch (Exception e) {
            result = e.getClass().getSimpleName() + (e instanceof IOException && e.getMessage() != null ? ", " + e.getMessage() : "");
        }
        System.out.println(what + ": " + result);
    }

    static String exchange(Socket s) throws IOException {
        byte[] b = new byte[200];
        int n = s.getInputStream().read(b);
        return new String(b, 0, n).trim() + ", own " + s.getLocalAddress().getHostAddress() + ", peer " + s.getRemoteSocketAddress();
    }

    static Object dial(String host, int port, int ms) throws IOException {
        try (Socket s = new Socket()) {
            s.connect(new InetSocketAddress(host, port), ms);
            return exchange(s);
        }
    }

    public static void main(String[] args) {
        for (String name : new String[] {"GREETING", "TWO_WORDS", "EMPTY", "ABSENT"})
            attempt(name, () -> System.getenv(name));
        attempt("hostname", () -> InetAddress.getLocalHost().getHostName());
        for (String name : new String[] {"server", "external.example", "absent.example"})
            attempt("name " + name, () -> {
                TreeSet<String> all = new TreeSet<>();
                for (InetAddress a : InetAddress.getAllByName(name)) all.add(a.getHostAddress());
                return all;
            });
        attempt("server by name", () -> dial("server", 7000, 20000));
        attempt("server, v6", () -> dial("2001:db8:7::7", 7000, 20000));
        attempt("refused", () -> dial("203.0.113.7", 7001, 20000));
        attempt("unreachable", () -> dial("192.0.2.193", 80, 20000));
        attempt("silent", () -> dial("192.0.2.1", 80, 1500));
        attempt("channel", () -> {
            try (SocketChannel c = SocketChannel.open(new InetSocketAddress("203.0.113.7", 7000))) {
                return exchange(c.socket());
            }
        });
        attempt("http", () -> HttpClient.newHttpClient()
            .send(HttpRequest.newBuilder(URI.create("http://server:8000/where")).build(), HttpResponse.BodyHandlers.ofString()).body().trim());
        attempt("listen", () -> {
            try (ServerSocket l = new ServerSocket(8090)) {
                System.out.println("listen: call ready 8090");
                try (Socket s = l.accept()) {
                    byte[] b = new byte[100];
                    int n = s.getInputStream().read(b);
                    s.getOutputStream().write("answer".getBytes());
                    return new String(b, 0, n) + " from " + s.getInetAddress().getHostAddress() + " at " + s.getLocalSocketAddress();
                }
            }
        });
        for (String name : new String[] {"/data", "/data/plain", "/data/link", "/data/dangling", "/data/absent", "/config/greeting"}) {
            Path p = Path.of(name);
            attempt("file " + name, () -> Arrays.asList(Files.exists(p), Files.isDirectory(p), Files.isSymbolicLink(p), Files.isReadable(p)));
            attempt("read " + name, () -> Files.readString(p));
        }
        attempt("list", () -> {
            try (var all = Files.list(Path.of("/data"))) {
                return new TreeSet<>(all.map(Path::toString).toList());
            }
        });
        attempt("real path", () -> Path.of("/data/sub/../link").toRealPath());
        attempt("write", () -> Files.writeString(Path.of("/data/new"), "x"));
        attempt("delete", () -> {
            Files.delete(Path.of("/data/plain"));
            return "ok";
        });
        attempt("child", () -> {
            ProcessBuilder b = new ProcessBuilder(System.getenv("CONFORM_C"), "child", "java");
            b.environment().clear();
            Process p = b.start();
            return new String(p.getInputStream().readAllBytes()).trim() + " " + p.waitFor();
        });
    }
}
