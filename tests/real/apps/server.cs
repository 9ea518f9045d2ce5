// HttpListener of mono.
using System.Net;
using System.Text;

class Server {
    static void Main() {
        var listener = new HttpListener();
        listener.Prefixes.Add("http://127.0.0.1:@PORT@/");
        listener.Start();
        var hello = Encoding.ASCII.GetBytes("hello\n");
        while (true) {
            var response = listener.GetContext().Response;
            response.OutputStream.Write(hello, 0, hello.Length);
            response.Close();
        }
    }
}
