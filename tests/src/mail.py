# A mail server that takes mail over TLS from the one user that it knows, and writes to standard output who
# came and what was sent: mail.py PORT CERTIFICATE KEY USER PASSWORD
import base64, socketserver, ssl, sys

port, certificate, key, user, password = sys.argv[1:]


class Session(socketserver.StreamRequestHandler):
    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def hear(self):
        return self.rfile.readline().decode().rstrip("\r\n")

    def handle(self):
        known = False
        self.say("220 test")
        while line := self.hear():
            word = line.split(" ", 1)[0].upper()
            if word == "EHLO":
                self.say("250-test")
                self.say("250 AUTH PLAIN")
            elif word == "AUTH":
                given = base64.b64decode(line.split(" ")[2]).decode().split("\0")
                known = given[1:] == [user, password]
                print("known" if known else "not known:", given[1], flush=True)
                self.say("235 welcome" if known else "535 who are you")
            elif word in ("MAIL", "RCPT") and not known:
                self.say("530 who are you")
            elif word == "DATA":
                self.say("354 go on")
                lines = iter(self.hear, ".")
                print("\n".join(lines), flush=True)
                self.say("250 taken")
            elif word == "QUIT":
                return self.say("221 bye")
            else:
                self.say("250 well")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
with Server(("127.0.0.1", int(port)), Session) as server:
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
