// Receives webhooks: verifies, does the work of each event once, and lets no older event undo a newer one.
//
// WEBHOOK_SECRETS=whsec_…[,whsec_…] java Inbox.java [port]

import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.DateTimeException;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Inbox {
  /** Seconds that a POST may be old: then a recorded one is worthless. */
  static final long TOLERANCE = 300;

  /** Several while a secret is changed: one that fits is enough. */
  final List<byte[]> keys = new ArrayList<>();

  // In production: two tables, written in one transaction, so that work and memory of it are there together or not at all.
  final Map<String, Instant> seen = new HashMap<>();
  final Map<String, Instant> changed = new HashMap<>();

  Inbox(String secrets) {
    for (String secret : secrets.split(",")) {
      keys.add(Base64.getDecoder().decode(secret.replaceFirst("^whsec_", "")));
    }
  }

  /** Whether the POST is the sender's, and of now. The signature covers the bytes as received. */
  boolean isVerified(Headers headers, byte[] body) throws GeneralSecurityException {
    String id = headers.getFirst("webhook-id");
    String sent = headers.getFirst("webhook-timestamp");
    String signatures = headers.getFirst("webhook-signature");
    if (id == null || sent == null || signatures == null || !sent.matches("\\d{1,18}")) return false;
    if (Math.abs(Instant.now().getEpochSecond() - Long.parseLong(sent)) > TOLERANCE) return false;
    for (byte[] key : keys) {
      Mac mac = Mac.getInstance("HmacSHA256");
      mac.init(new SecretKeySpec(key, "HmacSHA256"));
      mac.update((id + "." + sent + ".").getBytes(StandardCharsets.UTF_8));
      byte[] right = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(StandardCharsets.US_ASCII);
      for (String entry : signatures.split(" ")) {
        if (MessageDigest.isEqual(right, entry.getBytes(StandardCharsets.US_ASCII))) return true;
      }
    }
    return false;
  }

  /** Does the event's work, unless it was done. */
  synchronized String take(String id, Instant timestamp, String document) {
    // Forget them after 30 days: the sender's retention.
    if (seen.putIfAbsent(id, Instant.now()) != null) return "repeat";
    // An event that happened before what is known already comes too late: attempts may overtake each other.
    Instant known = changed.get(document);
    if (known != null && !timestamp.isAfter(known)) return "stale";
    changed.put(document, timestamp);
    return "applied";
  }

  void receive(HttpExchange exchange) throws IOException {
    byte[] body = exchange.getRequestBody().readAllBytes();
    int status = 204;
    try {
      if (isVerified(exchange.getRequestHeaders(), body)) {
        String id = exchange.getRequestHeaders().getFirst("webhook-id");
        String text = new String(body, StandardCharsets.UTF_8);
        if (member(text, "event").equals("postrider.test")) {
          System.out.println("test: " + id); // The sender tests the way here: there is nothing to do.
        } else {
          Instant timestamp = Instant.parse(member(text, "timestamp"));
          System.out.println(take(id, timestamp, member(text, "documentId")) + ": " + id);
        }
      } else {
        System.out.println("refused");
        status = 401;
      }
    } catch (GeneralSecurityException | IllegalArgumentException | DateTimeException error) {
      status = 500; // The sender tries again.
    }
    exchange.sendResponseHeaders(status, -1);
    exchange.close();
  }

  /** A text of the body. In production: a JSON library. */
  static String member(String json, String name) {
    Matcher matcher = Pattern.compile("\"" + name + "\"\\s*:\\s*\"([^\"\\\\]*)\"").matcher(json);
    if (!matcher.find()) throw new IllegalArgumentException(name + " is missing");
    return matcher.group(1);
  }

  public static void main(String[] arguments) throws IOException {
    int port = arguments.length > 0 ? Integer.parseInt(arguments[0]) : 7072;
    Inbox inbox = new Inbox(System.getenv("WEBHOOK_SECRETS"));
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.createContext("/", inbox::receive);
    server.start();
  }
}
