import com.hivemq.embedded.EmbeddedExtension;
import com.hivemq.embedded.EmbeddedHiveMQ;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.auth.parameter.SimpleAuthInput;
import com.hivemq.extension.sdk.api.auth.parameter.SimpleAuthOutput;
import com.hivemq.extension.sdk.api.packets.auth.DefaultAuthorizationBehaviour;
import com.hivemq.extension.sdk.api.packets.connect.ConnackReasonCode;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartOutput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopOutput;
import com.hivemq.extension.sdk.api.services.Services;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * Starts HiveMQ CE as tests/brokers.rs wants it, with the config.xml of a folder. A certificate and
 * its key, cert.pem and key.pem there, become the key store that the configuration names. Where
 * there is a file "users", with lines of a name and a password, only these are let in.
 */
public class HiveMq {
    private static final char[] PASSWORD = "changeit".toCharArray();

    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0]);
        writeKeyStore(folder);
        EmbeddedExtension access = EmbeddedExtension.builder()
                .withId("access").withName("access").withVersion("1").withAuthor("tests")
                .withPriority(0).withStartPriority(1000)
                .withExtensionMain(new Access(users(folder))).build();
        EmbeddedHiveMQ broker = EmbeddedHiveMQ.builder()
                .withConfigurationFolder(folder)
                .withDataFolder(Files.createDirectories(folder.resolve("data")))
                .withExtensionsFolder(Files.createDirectories(folder.resolve("extensions")))
                .withEmbeddedExtension(access).build();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> broker.stop().join()));
        broker.start().join();
    }

    /** Null: everybody is let in. */
    private static Map<String, String> users(Path folder) throws Exception {
        Path file = folder.resolve("users");
        if (!Files.exists(file)) {
            return null;
        }
        return Files.readAllLines(file).stream().map(line -> line.split(" "))
                .collect(Collectors.toMap(words -> words[0], words -> words[1]));
    }

    private static void writeKeyStore(Path folder) throws Exception {
        Certificate certificate;
        try (InputStream in = Files.newInputStream(folder.resolve("cert.pem"))) {
            certificate = CertificateFactory.getInstance("X.509").generateCertificate(in);
        }
        String pem = Files.readString(folder.resolve("key.pem")).replaceAll("-----[^-]+-----|\\s", "");
        PKCS8EncodedKeySpec key = new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem));
        KeyStore store = KeyStore.getInstance("JKS");
        store.load(null, PASSWORD);
        store.setKeyEntry("broker", KeyFactory.getInstance("EC").generatePrivate(key), PASSWORD,
                new Certificate[] {certificate});
        try (OutputStream out = Files.newOutputStream(folder.resolve("keys.jks"))) {
            store.store(out, PASSWORD);
        }
    }

    /** Lets in those whom it knows. */
    private record Access(Map<String, String> users) implements ExtensionMain, SimpleAuthenticator {
        @Override
        public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
            Services.securityRegistry().setAuthenticatorProvider(provider -> this);
        }

        @Override
        public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) {}

        @Override
        public void onConnect(SimpleAuthInput input, SimpleAuthOutput output) {
            var packet = input.getConnectPacket();
            String name = packet.getUserName().orElse("");
            String password = packet.getPassword()
                    .map(bytes -> StandardCharsets.UTF_8.decode(bytes).toString()).orElse("");
            output.getDefaultPermissions().setDefaultBehaviour(DefaultAuthorizationBehaviour.ALLOW);
            if (users == null || password.equals(users.get(name))) {
                output.authenticateSuccessfully();
            } else {
                output.failAuthentication(ConnackReasonCode.BAD_USER_NAME_OR_PASSWORD, "unknown");
            }
        }
    }
}
