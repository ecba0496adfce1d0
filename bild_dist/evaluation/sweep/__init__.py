"""`bild sweep`: many settings of one pair on one task, predicted from one recording and then written."""
