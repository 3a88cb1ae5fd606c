// Example texts. All persons, numbers and addresses are made up.
const EXAMPLES = [
  ["English", "en", "Hello, this is Maria Garcia. Please ship my order to 12 Main Street, Springfield, IL 62701.\nYou can reach me at (555) 010-4477 or maria.garcia@example.com. My social security number is 078-05-1120."],
  ["English, a letter", "en", "Dear Mr. Okafor,\n\nthank you for calling us on Monday. We have changed the address of your daughter Adaeze to 48 Harbour Road, Flat 3, Bristol. Your passport number, X1234567, stays on file.\n\nKind regards,\nEleanor Whitfield\nNorthwind Bank, London"],
  ["Español", "es", "Me llamo Lucía Fernández y vivo en la calle Mayor 15, 28013 Madrid. Mi teléfono es 612 345 678 y mi correo es lucia.fernandez@example.es."],
  ["Deutsch", "de", "Sehr geehrte Frau Schröder, bitte senden Sie die Unterlagen an Jürgen Müller, Gartenstraße 7, 80331 München. Telefon: 089 1234567."],
  ["Français", "fr", "Bonjour, je m'appelle Hélène Lefèvre. J'habite au 24 rue des Lilas, 69003 Lyon, et mon numéro est le 04 72 00 11 22."],
  ["Português", "pt", "O meu nome é João Silva e moro na Rua das Flores, 100, em Lisboa. O meu e-mail é joao.silva@example.pt."],
  ["العربية", "ar", "اسمي ليلى حداد وأسكن في شارع النخيل في مدينة عمّان. رقم هاتفي هو 0790000000 وبريدي layla.haddad@example.com."],
  ["עברית", "he", "שמי דוד כהן ואני גר ברחוב הרצל 5 בתל אביב. הטלפון שלי הוא 050-0000000."],
  ["हिन्दी", "hi", "मेरा नाम प्रिया शर्मा है और मैं जयपुर में रहती हूँ। मेरा फ़ोन नंबर 98765 43210 है।"],
  ["日本語", "ja", "山田花子と申します。東京都千代田区に住んでいます。電話番号は03-0000-0000です。"],
  ["Emoji and marks", "en", "👩🏽‍🚀 Commander Zoë Ångström 👨‍👩‍👧‍👦 moved to 9 Rocket Lane, Houston 🚀. Her friend José (jose@example.com) 🇲🇽 lives in Mérida."],
];
