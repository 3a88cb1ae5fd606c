// For nginx-h2c.conf: tells HTTP/2 with prior knowledge from HTTP/1 by a connection's first bytes. "PRI" is how
// every HTTP/2 connection begins (RFC 9113, 3.4), and no method of HTTP/1.

function choose(session) {
    session.on('upload', (data) => {
        if (data.length >= 3) {
            session.variables.nerve_http = data.startsWith('PRI') ? '2' : '1';
            session.done();
        }
    });
}

export default {choose};
