import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;

/** Answers on the socket that it has as fd 0. */
public class Inherited {
    public static void main(String[] arguments) throws Exception {
        ServerSocketChannel listener = (ServerSocketChannel) System.inheritedChannel();
        while (true) {
            SocketChannel client = listener.accept();
            new Thread(() -> {
                try (client) {
                    client.read(ByteBuffer.allocate(4096));
                    client.write(ByteBuffer.wrap("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n".getBytes()));
                } catch (java.io.IOException error) {
                    System.err.println(error);
                }
            }).start();
        }
    }
}
